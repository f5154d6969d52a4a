"""A gallery's folder, held open: whatever is read through it belongs to one build."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.errors import CorruptGalleryError, GalleryError, GalleryNotFoundError
from core.gallery.layout import thumbnail_file

_CHUNK_BYTES = 1 << 20


class GalleryFolder:
    """An open folder, and the files in it.

    The folder is opened once and files are opened relative to it, so that another gallery that is
    renamed into its place (``build --overwrite``) is never mixed with this one. What is read is
    copied into this process's own memory and never mapped: a file that is shortened or rewritten
    in place can neither change what was read nor end the process.

    Attributes:
        path: The folder, as the operator gave it.
    """

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            GalleryNotFoundError: No such folder.
            GalleryError: It cannot be opened.
        """
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise GalleryNotFoundError(
                path,
                f"There is no gallery folder {path}. "
                f"Build it with: python -m precompute build SOURCE --out {path}",
            ) from error
        except OSError as error:
            raise GalleryError(path, f"{path} cannot be opened ({error.strerror}).") from error
        weakref.finalize(self, os.close, self._handle)

    def is_in_place(self) -> bool:
        """Tell whether the folder is still the one of its name, or was replaced or removed."""
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except OSError:
            return False

    def read(self, name: str) -> np.ndarray:
        """Return a file's bytes: uint8 (size,), this process's own.

        Args:
            name: Relative to the folder.

        Raises:
            FileNotFoundError: There is no file of that name.
            GalleryError: It cannot be read.
        """
        with self._open(name) as file:
            content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
            filled = 0
            while count := file.readinto(content.data[filled : filled + _CHUNK_BYTES]):
                filled += count
        return content[:filled]

    def read_verified(self, name: str, files: Mapping[str, str]) -> np.ndarray:
        """Return a file's bytes, as :meth:`read` does, if they are those that were built.

        Args:
            name: Relative to the folder.
            files: sha256 by name.

        Raises:
            CorruptGalleryError: There is no such file, or its content is another.
            GalleryError: It cannot be read.
        """
        try:
            content = self.read(name)
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error
        self._require(name, hashlib.sha256(content.data).hexdigest(), files[name])
        return content

    def verify(self, name: str, sha256: str) -> None:
        """Check that a file is the one that was built; raises as :meth:`read_verified` does."""
        digest = hashlib.sha256()
        try:
            with self._open(name) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error
        self._require(name, digest.hexdigest(), sha256)

    def thumbnails_digest(self, image_ids: Iterable[str]) -> tuple[int, str]:
        """Return how many pictures have a thumbnail here, and one sha256 over all of these.

        The digest covers the names, relative to ``thumbnails/`` and sorted, and the sha256 of
        each file. Other files, such as a file manager's or a server's own, do not count.

        Raises:
            GalleryError: A thumbnail cannot be read.
        """
        digest, count = hashlib.sha256(), 0
        for name in sorted(map(thumbnail_file, image_ids)):
            try:
                content = self.read(name)
            except FileNotFoundError:
                continue
            count += 1
            short = name.partition("/")[2]
            digest.update(f"{short}:{hashlib.sha256(content.data).hexdigest()}\n".encode())
        return count, digest.hexdigest()

    def _require(self, name: str, found: str, expected: str) -> None:
        if found != expected:
            raise damaged(self.path, f"{name} is not the file that was built")

    @contextmanager
    def _open(self, name: str) -> Iterator[io.FileIO]:
        try:
            with io.FileIO(name, opener=self._opened) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise FileNotFoundError(name)
                yield file
        except FileNotFoundError:
            raise
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(name) from error
        except OSError as error:
            raise GalleryError(
                self.path, f"{name} of {self.path} cannot be read ({error.strerror})."
            ) from error

    def _opened(self, name: str, flags: int) -> int:
        # Without O_NONBLOCK, a pipe of that name would keep the process waiting.
        return os.open(name, flags | os.O_NONBLOCK, dir_fd=self._handle)


def damaged(folder: Path, what: str) -> CorruptGalleryError:
    """Return the error for a gallery that is damaged, with what to run."""
    return CorruptGalleryError(
        folder,
        f"Gallery {folder.name} is damaged: {what}. "
        f"Build it again with: python -m precompute build SOURCE --out {folder} --overwrite",
    )
