"""Which device a model runs on, and how a CPU runs it well."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from functools import lru_cache

from core.errors import ModelError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 * 2**20


def resolve_device(name: str) -> str:
    """Return the torch device that a setting stands for.

    Args:
        name: ``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ModelError: The name is none of these, or this machine has no such device.
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise ModelError(f"The device {name!r} is not one of auto, cpu, cuda and cuda:N.")
    if int(number or 0) >= torch.cuda.device_count():
        raise ModelError(f"This machine has no device {name!r}. Use auto or cpu.")
    return name


def give_back_memory() -> None:
    """Return what unloaded models held to the system, on a GPU too.

    glibc keeps freed blocks for later, see malloc_trim(3), and so does pyarrow. Does nothing of the
    former without glibc.
    """
    gc.collect()
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let this process keep some of the memory that tensors free for the tensors after them.

    glibc gives large blocks back to the system at once, and the next batch pays for every page of
    them again: a tenth of the time of an image tower. Does nothing without glibc. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
