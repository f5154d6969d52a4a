"""How often one visitor may make the server work."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

_MOST_VISITORS = 20_000


class RateLimit:
    """A bucket of requests for each visitor, refilled steadily.

    A visitor who rests may make a minute's requests at once. Used from the event loop only.

    Args:
        a_minute: Requests that a visitor may make in a minute; 0 for any number.
    """

    def __init__(self, a_minute: int) -> None:
        """Start with every bucket full."""
        self._size = float(a_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, visitor: str, now: float | None = None) -> int:
        """Take one request from a visitor's bucket.

        Args:
            visitor: Who asks.
            now: Monotonic seconds; the clock's if None.

        Returns:
            0 if the request may be answered, else the whole seconds until the next one may.
        """
        if not self._size:
            return 0
        now = time.monotonic() if now is None else now
        left, since = self._buckets.pop(visitor, (self._size, now))
        left = min(self._size, left + (now - since) * self._size / 60)
        allowed = left >= 1
        self._buckets[visitor] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _MOST_VISITORS:
            self._buckets.popitem(last=False)  # who has rested longest has the fullest bucket
        return 0 if allowed else math.ceil((1 - left) * 60 / self._size)
