"""A gallery's folder, held open: whatever is read through it belongs to one build."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import CorruptGalleryError, GalleryError, GalleryNotFoundError
from core.mapped import MappedFile

if TYPE_CHECKING:
    from core.gallery.manifest import FileRef

_CHUNK_BYTES = 1 << 20
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".avif", ".tif", ".tiff", ".gif")


class GalleryFolder:
    """An open folder, and the files in it.

    The folder is opened once and files are opened relative to it, so that another gallery that is
    renamed into its place (``build --overwrite``) is never mixed with this one. What is read is
    copied into this process's own memory: a file that is shortened or rewritten in place can
    neither change what was read nor end the process. That is not so of what is mapped
    (:meth:`HeldFile.map`), which only large galleries are.

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

    def read_verified(self, name: str, expected: FileRef) -> np.ndarray:
        """Return a file's bytes, as :meth:`read` does, if they are those that were built.

        Args:
            name: Relative to the folder.
            expected: What the manifest says of it.

        Raises:
            CorruptGalleryError: There is no such file, or its content is another.
            GalleryError: It cannot be read.
        """
        try:
            content = self.read(name)
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error
        self._require(name, hashlib.sha256(content.data).hexdigest(), expected)
        return content

    def verify(self, name: str, expected: FileRef) -> None:
        """Check that a file is the one that was built; raises as :meth:`read_verified` does."""
        try:
            found = self._sha256(name)
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error
        self._require(name, found, expected)

    def check_size(self, name: str, expected: FileRef) -> None:
        """Check that a file is there and as long as it was built; raises as :meth:`verify`."""
        self.held(name, expected.bytes)

    def held(self, name: str, size: int) -> HeldFile:
        """Open a file of a known size, and keep it open: one in its place is another.

        Raises:
            CorruptGalleryError: There is no such file, or it is longer or shorter.
            GalleryError: It cannot be read.
        """
        try:
            with self._open(name) as (handle, found):
                if found != size:
                    raise damaged(self.path, f"{name} is not the file that was built")
                return HeldFile(self.path, name, os.dup(handle), size)
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error

    def _require(self, name: str, found: str, expected: FileRef) -> None:
        if found != expected.sha256:
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


class HeldFile:
    """A file that stays open, whatever becomes of its name.

    Attributes:
        folder: Of the gallery.
        name: Relative to it.
        size: Bytes, when it was opened.
    """

    def __init__(self, folder: Path, name: str, handle: int, size: int) -> None:
        """Take over a descriptor."""
        self.folder, self.name, self.size = folder, name, size
        self._handle = handle
        self._mapped: MappedFile | None = None
        weakref.finalize(self, os.close, handle)

    @property
    def path(self) -> str:
        """A path that leads to this very file while this object lives, for other libraries."""
        held = Path(f"/proc/self/fd/{self._handle}")
        return str(held if held.exists() else self.folder / self.name)

    def read(self) -> np.ndarray:
        """Return all its bytes, in this process's own memory: uint8 (size,)."""
        content = np.empty(self.size, np.uint8)
        self._fill(content.data, 0)
        return content

    def read_at(self, start: int, length: int) -> bytes:
        """Return some of its bytes.

        Raises:
            CorruptGalleryError: It was shortened.
            GalleryError: It cannot be read.
        """
        content = bytearray(length)
        self._fill(memoryview(content), start)
        return bytes(content)

    def map(self, *, scattered: bool = False) -> np.ndarray:
        """Return all its bytes, read from disk when they are used: uint8 (size,), read-only.

        They are shared with other processes and can be dropped by the system at any time. A file
        that is shortened in place ends a process that uses what is gone of it.

        Args:
            scattered: Whether only the pages that are used shall be read, and none around them.
        """
        if not self.size:
            return np.empty(0, np.uint8)
        if self._mapped is None:
            self._mapped = MappedFile(self._handle, self.size)
            if scattered and hasattr(mmap, "MADV_RANDOM"):
                self._mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(self._mapped, np.uint8)

    def fetch(self, start: int, length: int) -> None:
        """Begin to read some bytes of the mapped file; see :class:`core.mapped.MappedFile`."""
        if self._mapped is not None:
            self._mapped.fetch(start, length)

    def release(self) -> None:
        """Take what was looked at of the mapped file out of this process's resident memory.

        It stays in the system's cache, and comes back when it is used.
        """
        if self._mapped is not None:
            self._mapped.release()

    def _fill(self, content: memoryview, start: int) -> None:
        filled = 0
        try:
            while filled < len(content):
                part = content[filled : filled + _CHUNK_BYTES]
                count = os.preadv(self._handle, [part], start + filled)
                if not count:
                    raise damaged(self.folder, f"{self.name} is shorter than it was built")
                filled += count
        except OSError as error:
            raise _unreadable(self.folder, self.name, error) from error


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
            raise _unreadable(self._folder.path, self._name, error) from error
        if not stat.S_ISREG(found.st_mode):
            os.close(self._handle)
            raise FileNotFoundError(self._name)
        return self._handle, found.st_size

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._handle)
        if isinstance(error, OSError):
            raise _unreadable(self._folder.path, self._name, error) from error


def _unreadable(folder: Path, name: str, error: OSError) -> GalleryError:
    return GalleryError(folder, f"{name} of {folder} cannot be read ({error.strerror}).")


def damaged(folder: Path, what: str) -> CorruptGalleryError:
    """Return the error for a gallery that is damaged, with what to run."""
    return CorruptGalleryError(folder, what)
