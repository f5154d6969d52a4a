"""Tensors of a checkpoint in safetensors: parts of it, several files, matrices in 4 and 8 bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_SCALE = "SCB"
_FORMAT = "weight_format"
_LARGEST_INT8 = 127
_FOUR_BITS = ".quant_state.bitsandbytes__nf4"


def read_tensors(folder: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors, or one part of them, without building its model.

    Matrices in 8 bits, as bitsandbytes writes them (int8 rows, each with its largest absolute
    value in a tensor ``SCB`` beside it), and in 4 bits (NF4) are multiplied out to float32; all
    else keeps its type.

    Args:
        folder: Holds ``model.safetensors``, or several files and their index.
        prefix: Only tensors whose names begin so, and with it taken off.

    Raises:
        OSError: A file is missing.
        ValueError: The index is not JSON, names no file in this folder, or a matrix in 4 bits lacks
            what describes it.
        safetensors.SafetensorError: A file is damaged.
    """
    from safetensors import safe_open

    raw: dict[str, torch.Tensor] = {}
    for path in _files(folder, prefix):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if name.startswith(prefix):
                    raw[name.removeprefix(prefix)] = file.get_tensor(name)
    return multiplied_out(raw)


def multiplied_out(raw: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors with those that are in 4 or 8 bits in float32; see :func:`read_tensors`."""
    tensors = dict(raw)
    for name in [name for name in tensors if name.endswith(_FOUR_BITS)]:
        weight = name.removesuffix(_FOUR_BITS)
        state = json.loads(bytes(tensors.pop(name).tolist()))
        parts = {n: tensors.pop(n) for n in list(tensors) if n.startswith(f"{weight}.")}
        own = {n.removeprefix(f"{weight}."): t for n, t in parts.items()}
        try:
            tensors[weight] = _from_4_bits(tensors[weight], state, own)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"What describes the 4 bits of {weight} is incomplete.") from error
    for name in [name for name in tensors if _is(name, _SCALE)]:
        weight = f"{name.removesuffix(_SCALE)}weight"
        scale = tensors.pop(name).float() / _LARGEST_INT8
        rows = tensors[weight].float()
        tensors[weight] = rows * scale.view(-1, *[1] * (rows.ndim - 1))
    return {name: tensor for name, tensor in tensors.items() if not _is(name, _FORMAT)}


def _from_4_bits(
    packed: torch.Tensor, state: Mapping[str, Any], own: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Multiply out one NF4 matrix (Dettmers et al. 2023, arXiv:2305.14314).

    Args:
        packed: uint8, two numbers each, the first one in the higher bits.
        state: What bitsandbytes notes of the matrix.
        own: ``quant_map``, the 16 values; ``absmax``, the scale of each block of numbers, which may
            be in 8 bits itself, with ``nested_absmax`` and ``nested_quant_map``.
    """
    import torch

    scales = own["absmax"]
    if "nested_absmax" in own:
        coarse = own["nested_absmax"].repeat_interleave(state["nested_blocksize"])[: len(scales)]
        fine = own["nested_quant_map"][scales.long()]
        scales = fine * coarse + state["nested_offset"]
    packed = packed.flatten()
    pairs = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    values = own["quant_map"][pairs.long()].float()
    # The last block may be shorter.
    values *= scales.float().repeat_interleave(state["blocksize"])[: len(values)]
    return values[: math.prod(state["shape"])].view(*state["shape"])


def is_quantised(config: object) -> bool:
    """Whether a model's configuration says that its checkpoint was written in 4 or 8 bits."""
    settings = getattr(config, "quantization_config", None)
    return isinstance(settings, dict) and bool(
        settings.get("load_in_8bit") or settings.get("load_in_4bit")
    )


def _is(name: str, last: str) -> bool:
    return name.rpartition(".")[2] == last


def _files(folder: Path, prefix: str) -> list[Path]:
    index = folder / INDEX_NAME
    if not index.is_file():
        return [folder / WEIGHTS_NAME]
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    names = {Path(file).name for tensor, file in places.items() if tensor.startswith(prefix)}
    return [folder / name for name in sorted(names)]
