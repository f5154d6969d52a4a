"""A private folder that dies with its process, or at the next start if the process was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import UploadError

_LOCK_FILE = "lock"
_PREFIX = "run-"
_LONGEST_SWEEP_S = 60.0


class RunFolder:
    """A fresh folder under ``parent`` that only this user can read, held by a file lock.

    Making one first deletes what earlier runs left behind: a folder whose lock nobody holds. Apps
    that start at once do so one after the other, by a lock of ``parent``, so that no sweep meets a
    folder which is made and not held yet.

    Attributes:
        path: The folder.
    """

    def __init__(self, parent: Path) -> None:
        """Sweep ``parent``, then make the folder.

        Raises:
            UploadError: ``parent`` belongs to another user, is a link, or is being swept for ever.
        """
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise UploadError(f"The folder for uploads, {parent.name}, belongs to someone else.")
        parent.chmod(0o700)
        try:
            with _lock_in(parent, timeout=_LONGEST_SWEEP_S):
                _sweep(parent)
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
                self._lock = _lock_in(self.path)
                self._lock.acquire()
        except Timeout as error:
            raise UploadError(
                f"Another process has held the folder for uploads, {parent.name}, for "
                f"{_LONGEST_SWEEP_S:.0f} s while it starts; end it, or set TWOLENS_UPLOAD_DIR."
            ) from error
        self._closed = False

    def close(self) -> None:
        """Delete the folder and all in it; a second call does nothing."""
        if not self._closed:
            self._closed = True
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()


def _lock_in(folder: Path, timeout: float = 0) -> FileLock:
    # Taken by one thread and let go by another: the process holds it.
    return FileLock(folder / _LOCK_FILE, timeout=timeout, mode=0o600, thread_local=False)


def _sweep(parent: Path) -> None:
    """Delete the run folders in ``parent`` whose process is gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        try:
            with _lock_in(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its process is alive (Timeout is an OSError too)


def sweep_older(parent: Path, seconds: float) -> int:
    """Delete what in ``parent`` has not changed for so long, and return how much that was.

    A folder has changed when anything in it has: a file that is slowly written keeps its folder.
    """
    oldest = time.time() - seconds
    swept = 0
    for path in parent.iterdir():
        try:
            if _last_change(path) >= oldest:
                continue
        except FileNotFoundError:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept += 1
    return swept


def _last_change(path: Path) -> float:
    """Return the newest time of change of a file, or of a folder and what is in it."""
    times = [path.lstat().st_mtime]
    if path.is_dir() and not path.is_symlink():
        times += [below.lstat().st_mtime for below in path.rglob("*")]
    return max(times)
