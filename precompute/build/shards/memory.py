"""A batch that does not fit into memory is halved until it does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from core.models.devices import give_back_memory

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class FittingBatches(Generic[Item, Result]):
    """Work on batches, each as large as memory allows.

    A batch for which memory does not suffice is halved, and no later one is larger.

    Args:
        work: Returns a result an item; after it failed for want of memory it is asked again.
    """

    def __init__(self, work: Callable[[list[Item]], list[Result]]) -> None:
        """Allow any size."""
        self._work = work
        self._largest: int | None = None

    def __call__(self, items: list[Item]) -> list[Result]:
        """Return a result an item, in order.

        Raises:
            Exception: What the work raises: memory that one item alone exhausts, too.
        """
        results: list[Result] = []
        while len(results) < len(items):
            rest = items[len(results) :]
            part = rest[: self._largest or len(rest)]
            try:
                results += self._work(part)
                continue
            except (MemoryError, RuntimeError) as error:
                if len(part) == 1 or not _is_exhaustion(error):
                    raise
            # Outside of the handler: what the failed attempt held is free now.
            self._largest = (len(part) + 1) // 2
            _log.warning("batches of %d do not fit into memory: halved", len(part))
            give_back_memory()
        return results


def _is_exhaustion(error: Exception) -> bool:
    """Tell whether memory ran out; torch says it by a class on a GPU, by words on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text or "ALLOC_FAILED" in text
