"""A gallery's folder, held open: whatever is read through it belongs to one build."""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from core.errors import CorruptGalleryError, GalleryError, GalleryNotFoundError
from core.gallery.layout import thumbnail_file

_CHUNK_BYTES = 1 << 20
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".avif", ".tif", ".tiff", ".gif")


class GalleryFolder:
    """An open folder, and the files in it.

    The folder is opened once and files are opened relative to it, so that another gallery that is
    renamed into its place (``build --overwrite``) is never mixed with this one. What is read is
    copied into this process's own memory and never mapped: a file that is shortened or rewritten
    in place can neither change what was read nor end the process.

    Attributes:
        path: The folder, as the operator gave it.
        handle: Its descriptor.
    """

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            GalleryNotFoundError: No such folder.
            GalleryError: It cannot be opened.
        """
        self.path = path
        try:
            self.handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise GalleryNotFoundError(
                path,
                f"There is no gallery folder {path}. "
                f"Build it with: python -m precompute build SOURCE --out {path}",
            ) from error
        except OSError as error:
            raise GalleryError(path, f"{path} cannot be opened ({error.strerror}).") from error
        weakref.finalize(self, os.close, self.handle)

    def is_in_place(self) -> bool:
        """Tell whether the folder is still the one of its name, or was replaced or removed."""
        try:
            return os.path.samestat(os.fstat(self.handle), os.stat(self.path))
        except OSError:
            return False

    def has_folder(self, name: str) -> bool:
        """Tell whether there is a folder of this name in it."""
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=self.handle).st_mode)
        except OSError:
            return False

    def holds_photos(self) -> bool:
        """Tell whether files in it are named like photos."""
        return any(name.lower().endswith(PHOTO_ENDINGS) for name in os.listdir(self.handle))

    def read(self, name: str) -> np.ndarray:
        """Return a file's bytes: uint8 (size,), this process's own.

        Args:
            name: Relative to the folder.

        Raises:
            FileNotFoundError: There is no file of that name.
            GalleryError: It cannot be read.
        """
        with self._open(name) as (handle, size):
            content = np.empty(size, np.uint8)
            filled = 0
            while count := os.readv(handle, [content.data[filled : filled + _CHUNK_BYTES]]):
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
        try:
            found = self._sha256(name)
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error
        self._require(name, found, sha256)

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
                found = self._sha256(name)
            except FileNotFoundError:
                continue
            count += 1
            digest.update(f"{name.partition('/')[2]}:{found}\n".encode())
        return count, digest.hexdigest()

    def _require(self, name: str, found: str, expected: str) -> None:
        if found != expected:
            raise damaged(self.path, f"{name} is not the file that was built")

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._open(name) as (handle, size):
            length = min(size + 1, _CHUNK_BYTES)
            while chunk := os.read(handle, length):
                digest.update(chunk)
                if len(chunk) < length:
                    break
        return digest.hexdigest()

    def _open(self, name: str) -> _OpenFile:
        return _OpenFile(self, name)


class _OpenFile:
    """An open regular file of a folder: its handle and size. Plain, for there may be a million.

    Raises on entry and on exit FileNotFoundError, or GalleryError for all else that goes wrong.
    """

    def __init__(self, folder: GalleryFolder, name: str) -> None:
        self._folder, self._name = folder, name
        self._handle = -1

    def __enter__(self) -> tuple[int, int]:
        # Without O_NONBLOCK, a pipe of that name would keep the process waiting.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._handle = os.open(self._name, flags, dir_fd=self._folder.handle)
            found = os.fstat(self._handle)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(self._name) from error
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(found.st_mode):
            os.close(self._handle)
            raise FileNotFoundError(self._name)
        return self._handle, found.st_size

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._handle)
        if isinstance(error, OSError):
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> GalleryError:
        path = self._folder.path
        return GalleryError(path, f"{self._name} of {path} cannot be read ({error.strerror}).")


def damaged(folder: Path, what: str) -> CorruptGalleryError:
    """Return the error for a gallery that is damaged, with what to run."""
    return CorruptGalleryError(folder, what)
