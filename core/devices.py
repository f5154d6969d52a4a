"""Which device a model runs on."""

from __future__ import annotations

from core.errors import ModelError


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
