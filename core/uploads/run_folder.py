"""A private folder that dies with its process, or at the next start if the process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from core.errors import UploadError

_LOCK_FILE = "lock"
_PREFIX = "run-"


class RunFolder:
    """A fresh folder under ``parent`` that only this user can read, held by a file lock.

    Making one first deletes what earlier runs left behind: a folder whose lock nobody holds.

    Attributes:
        path: The folder.
    """

    def __init__(self, parent: Path) -> None:
        """Sweep ``parent``, then make the folder.

        Raises:
            UploadError: ``parent`` belongs to another user, or is a link.
        """
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise UploadError(f"The folder for uploads, {parent.name}, belongs to someone else.")
        parent.chmod(0o700)
        sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self.path / _LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._closed = False

    def close(self) -> None:
        """Delete the folder and all in it; a second call does nothing."""
        if not self._closed:
            self._closed = True
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)


def sweep(parent: Path) -> int:
    """Delete the run folders in ``parent`` whose process is gone, and return how many."""
    swept = 0
    for folder in parent.glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        try:
            lock = os.open(folder / _LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its process is alive
        else:
            shutil.rmtree(folder, ignore_errors=True)
            swept += 1
        finally:
            os.close(lock)
    return swept


def sweep_older(parent: Path, seconds: float) -> int:
    """Delete what in ``parent`` has not changed for so long, and return how much that was."""
    oldest = time.time() - seconds
    swept = 0
    for path in parent.iterdir():
        try:
            if path.lstat().st_mtime >= oldest:
                continue
        except FileNotFoundError:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept += 1
    return swept
