"""What of a file the system holds in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest


def forget(path: Path) -> None:
    """Have the system drop a file from memory; skip the test where it does not."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system drops no file")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path).any():
        pytest.skip("this file system drops no file")


def cached_pages(path: Path) -> np.ndarray:
    """Return whether each page of a file is in memory: bool (pages,)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = np.frombuffer(mapped, np.uint8)
        states = np.zeros(-(-len(content) // mmap.PAGESIZE), np.uint8)
        address, size = content.ctypes.data, len(content)
        del content
        found = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(states.ctypes.data)
        )
    assert found == 0
    return (states & 1).astype(bool)
