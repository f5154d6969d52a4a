"""Large files that a process reads little of: mapped, read by the row, and let go.

A fault on a page that is not in the system's cache waits for that page and reads megabytes around
it; one that is in the cache brings its neighbours into the process's resident memory. So rows that
lie far from each other are read from the file, side by side, and scanned files are let go.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np


class MappedFile(mmap.mmap):
    """A whole file, mapped read-only, that rows can be read from too.

    Attributes:
        handle: Its own descriptor.
    """

    handle: int

    def __new__(cls, handle: int, size: int) -> MappedFile:
        """Map a file of so many bytes, one or more, whose descriptor may then be closed."""
        mapped = super().__new__(cls, handle, size, access=mmap.ACCESS_READ)
        mapped.handle = os.dup(handle)
        weakref.finalize(mapped, os.close, mapped.handle)
        return mapped

    def fetch(self, start: int, length: int) -> None:
        """Begin to read some bytes into the system's cache; do not wait."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, start, length, os.POSIX_FADV_WILLNEED)

    def release(self) -> None:
        """Take what was looked at out of resident memory; the system's cache keeps it."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)


def read_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some rows, read from the file where the array lies in a mapped one.

    Args:
        array: (n, dim), in row order without gaps.
        rows: int (m,).

    Raises:
        OSError: They cannot be read, or the file was shortened.
    """
    file = _file_of(array)
    if file is None or not len(rows) or not hasattr(os, "preadv"):
        return array[rows]
    begin = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
    width = array.strides[0]
    found = np.empty((len(rows), array.shape[1]), array.dtype)
    content = found.data.cast("B")
    breaks = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    parts = [
        (begin + width * int(rows[first]), content[width * first : width * end])
        for first, end in pairwise(breaks)
    ]
    for start, part in parts:
        file.fetch(start, len(part))
    for start, part in parts:
        _fill(file.handle, part, start)
    return found


def scratch(shape: tuple[int, int], folder: Path) -> np.ndarray:
    """Return zeros to be written over, float32, whose pages are the system's to take back.

    They lie in a file without a name, which is gone with the array.

    Args:
        shape: Rows and their length, each 1 or more.
        folder: On whose disk.

    Raises:
        OSError: There is no room.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal later
            os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
        return np.memmap(file, np.float32, "w+", shape=shape)


def let_go(array: np.ndarray) -> None:
    """Take what was scanned of an array in a mapped file out of resident memory."""
    file = _file_of(array)
    if file is not None:
        file.release()


def let_go_of(address: int, length: int) -> None:
    """Do so with a file that another library mapped, read-only, at an address."""
    if hasattr(mmap, "MADV_DONTNEED"):
        where = ctypes.c_void_p(address), ctypes.c_size_t(length)
        ctypes.CDLL(None).madvise(*where, mmap.MADV_DONTNEED)


def _file_of(array: np.ndarray) -> MappedFile | None:
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, MappedFile) else None


def _fill(handle: int, content: memoryview, start: int) -> None:
    filled = 0
    while filled < len(content):
        count = os.preadv(handle, [content[filled:]], start + filled)
        if not count:
            raise OSError(errno.EIO, "a mapped file was shortened")
        filled += count
