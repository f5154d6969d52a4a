"""A thread for each encoder of queries, with its share of the cores.

OpenMP keeps a team of threads for every thread that calls it, and the members of a team wait for
each other by spinning. A server whose handlers run in a pool of threads would have one team each;
where they outnumber the free cores, a member spins while the one it waits for has no core: a query
of 20 ms then takes a second. So each encoder has one thread, and all their teams together have no
more members than the machine has cores. Two encoders run side by side.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_SETTING = threading.Lock()


class EncoderThread:
    """Runs what it is given in one thread, one after the other.

    Args:
        name: Of the thread.
        share: How many such threads share the cores.
    """

    def __init__(self, name: str, share: int) -> None:
        """Start nothing yet."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._members = max(1, (cores or 1) // share)
        self._takes_part = False
        self._pool = ThreadPoolExecutor(1, name)

    def submit(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Return what will hold the call's result."""
        return self._pool.submit(self._run, lambda: call(*args, **kwargs))

    def _run(self, call: Callable[[], R]) -> R:
        # Not at the thread's start: torch is imported by the model that needs it.
        if not self._takes_part and "torch" in sys.modules:
            _take_part(self._members)
            self._takes_part = True
        return call()


def _take_part(members: int) -> None:
    """Give this thread a team of so many members, and leave those of other threads as they are.

    Torch remembers the last number set as that of threads to come, and gives it to each thread at
    its first question. So this thread asks before it sets its own, and another sets the old one.
    """
    import torch

    with _SETTING:
        others = torch.get_num_threads()
        torch.set_num_threads(members)
        restoring = threading.Thread(target=torch.set_num_threads, args=(others,))
        restoring.start()
        restoring.join()
