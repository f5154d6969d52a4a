"""The memory that all decoding needs together, shared out in turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import DecodingStoppedError
from core.images.recognise import RefusedError

_POLL_S = 0.1


class MemoryBudget:
    """Bytes that several threads share; who asked first is served first."""

    def __init__(self, total: int) -> None:
        """Share so many bytes."""
        self.total = total
        self._free = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, size: int, stop: threading.Event | None = None) -> Iterator[None]:
        """Wait for so many bytes, and hold them.

        Raises:
            RefusedError: There will never be so many.
            DecodingStoppedError: ``stop`` was set first.
        """
        if size > self.total:
            raise RefusedError(
                f"needs {size / 1e9:,.1f} GB of memory to decode, over the limit of "
                f"{self.total / 1e9:,.1f} GB"
            )
        place = object()
        with self._changed:
            self._waiting.append(place)
            try:
                while self._waiting[0] is not place or self._free < size:
                    if stop is not None and stop.is_set():
                        raise DecodingStoppedError
                    self._changed.wait(None if stop is None else _POLL_S)
                self._free -= size
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()
