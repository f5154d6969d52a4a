"""Files that are whole or absent: hashing, syncing, and publishing a finished folder."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def local_path(given: str) -> Path:
    """Return what a user calls a file or folder, ``~`` being their home folder.

    A name of an unknown user stays as it is: there is no such folder.
    """
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a restart, sees all of it or none of it."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    fsync(path.parent)
