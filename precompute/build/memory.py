"""A batch that does not fit into memory is halved until it does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from core.models.devices import give_back_memory

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def halved_on_exhaustion(
    work: Callable[[list[Item]], list[Result]], items: list[Item]
) -> list[Result]:
    """Return ``work(items)``; where memory does not suffice, that of its halves.

    Args:
        work: Returns a result an item; it may be asked again.
        items: One or more.

    Raises:
        Exception: What ``work`` raises: memory that one item alone exhausts, too.
    """
    try:
        return work(items)
    except (MemoryError, RuntimeError) as error:
        if len(items) == 1 or not _is_exhaustion(error):
            raise
    # Outside of the handler: what the failed attempt held is then free.
    half = (len(items) + 1) // 2
    _log.warning("a batch of %d does not fit into memory: halved", len(items))
    give_back_memory()
    parts = (items[:half], items[half:])
    return [result for part in parts for result in halved_on_exhaustion(work, part)]


def _is_exhaustion(error: Exception) -> bool:
    """Tell whether memory ran out; torch says it by a class on a GPU, by words on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text or "ALLOC_FAILED" in text
