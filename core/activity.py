"""What a running app does, for its operator: counts of the process, and notes on a request."""

from __future__ import annotations

import threading
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass

_SEARCHES: Counter[str] = Counter()
_CAPTIONS: Counter[str] = Counter()
_LOCK = threading.Lock()


@dataclass(slots=True)
class RequestNote:
    """What is known of the request that is being answered.

    Attributes:
        id: Names it in the log, in the answer's headers, and to a visitor who meets a fault.
        query: The words that were searched, "" if none were.
    """

    id: str
    query: str = ""


current_request: ContextVar[RequestNote | None] = ContextVar("current_request", default=None)
"""The request that this context answers; None outside of one, as in a queue's own thread."""


def searched(lens: str, query: str = "") -> None:
    """Count a search, and note its words beside the request that asked for it.

    Args:
        lens: Which lens answered.
        query: The words; "" for a search by a picture.
    """
    with _LOCK:
        _SEARCHES[lens] += 1
    note = current_request.get()
    if note is not None and query:
        note.query = query


def captioned(captioner: str, count: int) -> None:
    """Count captions that a model wrote."""
    with _LOCK:
        _CAPTIONS[captioner] += count


def searches() -> dict[str, int]:
    """Return how many searches each lens has answered."""
    with _LOCK:
        return dict(_SEARCHES)


def captions() -> dict[str, int]:
    """Return how many captions each captioner has written."""
    with _LOCK:
        return dict(_CAPTIONS)
