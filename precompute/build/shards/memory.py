"""How large batches are: as a GPU is fastest with them, and halved where they do not fit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

from core.models.devices import give_back_memory

_log = logging.getLogger(__name__)

_PAYS = 1.05
"""Larger batches are taken while a picture costs this much less."""
_USABLE = 0.9
"""Of the memory that is free: what is freed in pieces cannot all be used."""

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


def fastest_batch(
    seconds: Callable[[int], float], first: int, most: int, fits_twice: Callable[[], bool]
) -> int:
    """Return the size of batches that takes the least time a picture: doubled while that pays.

    It is found before the first shard, not while shards are made: libraries round the products of
    batches of different sizes differently, and a shard must not depend on those before it.

    Args:
        seconds: Works on a batch of a size; returns how long that took.
        first: The size to begin with, which is returned if no larger one is better.
        most: No larger one is tried.
        fits_twice: Tells after a batch whether memory may suffice for one twice as large.
    """
    size = first
    if 2 * first > most:
        return first
    try:
        seconds(first)  # loads and prepares what is prepared once
        best = seconds(first) / first
        while 2 * size <= most and fits_twice():
            found = seconds(2 * size) / (2 * size)
            if found * _PAYS > best:
                break
            size, best = 2 * size, found
    except (MemoryError, RuntimeError) as error:
        if not _is_exhaustion(error):
            raise
    give_back_memory()  # outside of the handler: what a failed attempt held is free now
    return size


def forget_peak(device: str) -> None:
    """Forget what a GPU held at most so far, such as when models were loaded, if it was used yet.

    Args:
        device: ``cuda`` or ``cuda:N``.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)


def twice_fits_gpu(device: str) -> bool:
    """Tell whether a GPU has memory for a batch twice as large as the one just worked on.

    Args:
        device: ``cuda`` or ``cuda:N``.
    """
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    lasting = torch.cuda.memory_allocated(device)
    batch = torch.cuda.max_memory_allocated(device) - lasting
    return 2 * batch <= _USABLE * (free + torch.cuda.memory_reserved(device) - lasting)


def _is_exhaustion(error: Exception) -> bool:
    """Tell whether memory ran out; torch says it by a class on a GPU, by words on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text or "ALLOC_FAILED" in text
