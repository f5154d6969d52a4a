"""Tensors of a checkpoint in safetensors: some of its parts, several files, 8-bit matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_SCALE = "SCB"
_FORMAT = "weight_format"
_LARGEST_INT8 = 127


def read_tensors(folder: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors, or one part of them, without building its model.

    Matrices in 8 bits, as bitsandbytes writes them (int8 rows, each with its largest absolute
    value in a tensor ``SCB`` beside it), are multiplied out to float32; all else keeps its type.

    Args:
        folder: Holds ``model.safetensors``, or several files and their index.
        prefix: Only tensors whose names begin so, and with it taken off.

    Raises:
        OSError: A file is missing.
        ValueError: The index is not JSON, or names no file in this folder.
        safetensors.SafetensorError: A file is damaged.
    """
    raw: dict[str, torch.Tensor] = {}
    for path in weight_files(folder, prefix):
        raw |= tensors_below(path, prefix)
    scales = {name.removesuffix(_SCALE): raw.pop(name) for name in list(raw) if _is(name, _SCALE)}
    for owner, scale in scales.items():
        weight = raw[f"{owner}weight"]
        raw[f"{owner}weight"] = weight.float() * (scale.float() / _LARGEST_INT8)[:, None]
    return {name: tensor for name, tensor in raw.items() if not _is(name, _FORMAT)}


def tensors_below(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file whose names begin so, by what comes after."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): opened.get_tensor(name) for name in names}


def is_8_bit(config: object) -> bool:
    """Whether a model's configuration says that its checkpoint was written in 8 bits."""
    settings = getattr(config, "quantization_config", None)
    return isinstance(settings, dict) and bool(settings.get("load_in_8bit"))


def _is(name: str, last: str) -> bool:
    return name.rpartition(".")[2] == last


def weight_files(folder: Path, prefix: str = "") -> list[Path]:
    """Return the files that hold a checkpoint's tensors, whether they are there or not.

    Args:
        folder: As for :func:`read_tensors`.
        prefix: Only files with tensors whose names begin so.

    Raises:
        ValueError: The index is not JSON.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        return [folder / WEIGHTS_NAME]
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    names = {Path(file).name for tensor, file in places.items() if tensor.startswith(prefix)}
    return [folder / name for name in sorted(names)]
