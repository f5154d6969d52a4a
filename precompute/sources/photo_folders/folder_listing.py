"""The files of a folder that may be pictures; links are followed, systems' own are left out."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.errors import SourceError
from precompute.sources.photo_folders.system_files import is_system_file


class FolderListing:
    """All files below a folder that its owner means.

    Hidden files and folders, and what a system left (:func:`is_system_file`), are passed over.
    A link to a folder is followed, but no folder is read twice: what lies inside the folder itself
    is read there, and a link that leads to it, back up, or round in a circle is a problem.

    Args:
        root: The folder, which may be a link itself.

    Attributes:
        files: Relative names with slashes, sorted.
        stamps: Bytes of each file and when it was changed (nanoseconds), at the listing.
        problems: By relative name what is no file to read, worded as an ImageError's reason.

    Raises:
        SourceError: The folder itself cannot be read.
    """

    def __init__(self, root: Path) -> None:
        """List the files; open none."""
        self._root = root
        self.stamps: dict[str, tuple[int, int]] = {}
        self.problems: dict[str, str] = {}
        self._read: set[tuple[int, int]] = set()
        above = {_identity(parent) for parent in root.resolve().parents}
        links = deque(sorted(self._below(PurePosixPath())))
        while links:
            link = links.popleft()
            try:
                found = _identity(root / link)
            except OSError as error:
                self.problems[link.as_posix()] = f"cannot be read ({error.strerror})"
                continue
            if found in self._read:
                self.problems[link.as_posix()] = "is a link to a folder that is read already"
            elif found in above:
                self.problems[link.as_posix()] = "is a link to a folder that holds this source"
            else:
                links.extend(sorted(self._below(link)))
        self.files = sorted(self.stamps)

    def _below(self, top: PurePosixPath) -> Iterator[PurePosixPath]:
        """Take in all files below a folder; yield the links to other folders."""
        for folder, folders, files in os.walk(self._root / top, onerror=self._refuse):
            inside = PurePosixPath(Path(folder).relative_to(self._root).as_posix())
            identity = _identity(Path(folder))
            if identity in self._read:
                # A linked tree that holds, further down, one that was read before it.
                self.problems[inside.as_posix()] = "is a folder that is read already"
                folders.clear()
                continue
            self._read.add(identity)
            own = [name for name in folders if _is_meant(name)]
            yield from (inside / name for name in own if os.path.islink(os.path.join(folder, name)))
            folders[:] = own
            for name in filter(_is_meant, files):
                self._take(inside / name)

    def _take(self, name: PurePosixPath) -> None:
        try:
            status = (self._root / name).stat()
        except OSError as error:
            self.problems[name.as_posix()] = f"cannot be read ({error.strerror})"
            return
        if not stat.S_ISREG(status.st_mode):
            self.problems[name.as_posix()] = "is not a regular file"
        elif not os.access(self._root / name, os.R_OK):
            self.problems[name.as_posix()] = "cannot be read (Permission denied)"
        else:
            self.stamps[name.as_posix()] = (status.st_size, status.st_mtime_ns)

    def _refuse(self, error: OSError) -> None:
        inside = os.path.relpath(error.filename, self._root)
        if inside == ".":
            raise SourceError(f"{self._root} cannot be read ({error.strerror}).")
        self.problems[Path(inside).as_posix()] = f"cannot be read ({error.strerror})"


def _is_meant(name: str) -> bool:
    return not name.startswith(".") and not is_system_file(name)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
