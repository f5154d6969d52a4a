"""Store a CLIP model's image tower as its low-rank differences from a captioner's.

Both started from the same weights, and what training changed in a matrix has few directions: a
tower that differs from the captioner's in resolution and a block costs a fraction of a second one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save

from core.clip_towers import (
    CONFIG_NAME,
    LOCAL_WEIGHTS_NAME,
    ClipFiles,
    load_image_tower,
    new_image_tower,
)
from core.errors import SourceError
from core.files import write_atomically
from core.instructblip_tower import LOW_RANK, VISION_PREFIX, as_open_clip
from core.tensors import read_tensors
from core.weights import local_folder

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.models import ModelSpec

_PREFIX = "visual."
_SCALE = "SCB"
_LARGEST = 127


def lend_tower(
    model: ClipFiles,
    tower: Path,
    lender: ModelSpec,
    out: Path,
    *,
    without: Sequence[int],
    rank: int,
    images: Sequence[Image],
) -> dict[str, Any]:
    """Write a CLIP model with another image tower, which borrows from a captioner.

    The differences are those that change the outputs for ``images`` least: each input of a matrix
    counts by its mean square over them (as in LQER, Zhang et al. 2024, arXiv:2402.02446).

    Args:
        model: Gives all but the image tower; its ``vision_cfg`` must be the tower's.
        tower: Safetensors by open_clip's names, without a prefix.
        lender: InstructBLIP checkpoint in a local folder or ``asset:``.
        out: Gets ``open_clip_config.json`` and ``model.safetensors``.
        without: Blocks of the lender that the tower lacks, from 0.
        rank: Of the differences.
        images: RGB, some dozens.

    Returns:
        ``fit``: the mean cosine of the embeddings of ``images``, centred, by the tower as it was
        and as it was written; ``bytes`` of the weights.

    Raises:
        SourceError: The tower, the lender and the configuration do not belong together.
    """
    folder = local_folder(lender)
    if folder is None:
        raise SourceError(f"{lender.name} must be a folder here: a lent tower is read from disk.")
    lent = as_open_clip(read_tensors(folder, VISION_PREFIX), without)
    whole = {name: tensor.float() for name, tensor in load_file(tower).items()}
    built = new_image_tower(model)
    try:
        built.module.load_state_dict(whole)
    except RuntimeError as error:
        raise SourceError(
            f"{tower.name} does not fit the image tower of {model.spec.name}."
        ) from error
    pixels = torch.stack([built.preprocess(image) for image in images])
    with torch.inference_mode():
        scales = _input_scales(built.module, pixels)
        before = built.module(pixels)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in whole.items():
        if (
            name in lent
            and lent[name].shape == tensor.shape
            and tensor.ndim == 2
            and name in scales
        ):
            factors = _factors(tensor - lent[name], scales[name], rank)
            for ending, factor in zip(LOW_RANK, factors, strict=True):
                stored |= _in_8_bits(f"{_PREFIX}{name}{ending}", factor)
        elif tensor.ndim > 2:
            stored |= _in_8_bits(f"{_PREFIX}{name}", tensor)
        else:
            stored[f"{_PREFIX}{name}"] = tensor.half()
    own = load_file(model.weights)
    stored |= {name: tensor for name, tensor in own.items() if not name.startswith(_PREFIX)}
    config = {**model.config, "image_tower": lender.source, "image_tower_without": list(without)}
    out.mkdir(parents=True, exist_ok=True)
    content = save({name: tensor.contiguous() for name, tensor in stored.items()}, {"format": "pt"})
    write_atomically(out / LOCAL_WEIGHTS_NAME, content)
    write_atomically(out / CONFIG_NAME, (json.dumps(config, indent=2) + "\n").encode())
    written = ClipFiles(replace(model.spec, source=f"path:{out}"), config, out / LOCAL_WEIGHTS_NAME)
    with torch.inference_mode():
        after = load_image_tower(written).module(pixels)
    return {"fit": round(_likeness(before, after), 4), "bytes": len(content)}


def _input_scales(tower: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the root mean square of each input of every matrix of the blocks, by its name."""
    sums: dict[str, torch.Tensor] = {}
    hooks = []

    def watch(name: str) -> Any:  # noqa: ANN401 - a hook
        def see(_: object, inputs: tuple[torch.Tensor, ...], __: object = None) -> None:
            sums[name] = inputs[0].flatten(0, -2).square().mean(dim=0).sqrt()

        return see

    for number, block in enumerate(tower.transformer.resblocks):
        base = f"transformer.resblocks.{number}."
        for name, module in (("mlp.c_fc", block.mlp.c_fc), ("mlp.c_proj", block.mlp.c_proj)):
            hooks.append(module.register_forward_hook(watch(f"{base}{name}.weight")))

        # open_clip's attention runs in one fused call, which shows its input alone.
        def attention(_: object, inputs: tuple[torch.Tensor, ...], base: str = base) -> None:
            seen = inputs[0]
            sums[f"{base}attn.in_proj_weight"] = seen.flatten(0, -2).square().mean(dim=0).sqrt()

        def output(
            module: torch.nn.Module, _: object, result: torch.Tensor, base: str = base
        ) -> None:
            said = result[0] if isinstance(result, tuple) else result
            weight = module.out_proj.weight
            inputs = torch.linalg.lstsq(
                weight, (said - module.out_proj.bias).flatten(0, -2).T
            ).solution
            sums[f"{base}attn.out_proj.weight"] = inputs.square().mean(dim=1).sqrt()

        hooks.append(block.attn.register_forward_pre_hook(attention))
        hooks.append(block.attn.register_forward_hook(output))
    tower(pixels)
    for hook in hooks:
        hook.remove()
    return sums


def _factors(
    difference: torch.Tensor, scales: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors (rank, inputs) and (outputs, rank) of the best difference of a rank."""
    weights = scales.clamp(min=1e-6 * float(scales.max()))
    left, values, right = torch.linalg.svd(difference * weights, full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank] / weights, left[:, :rank] * root


def _in_8_bits(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return int8 rows and the largest absolute value of each, as bitsandbytes writes them."""
    largest = tensor.flatten(1).abs().amax(dim=1).clamp(min=1e-12)
    scale = largest.view(-1, *[1] * (tensor.ndim - 1)) / _LARGEST
    rounded = (tensor / scale).round().to(torch.int8)
    return {name: rounded, f"{name.removesuffix('weight')}{_SCALE}": largest}


def _likeness(before: torch.Tensor, after: torch.Tensor) -> float:
    rows = [torch.nn.functional.normalize(each, dim=-1) for each in (before, after)]
    centred = [each - rows[0].mean(dim=0) for each in rows]
    return float(torch.nn.functional.cosine_similarity(*centred).mean())


def compact_form(model: ClipFiles) -> dict[str, dict[str, torch.Tensor]]:
    """Return how a model's file stores what it holds in 8 bits or as low-rank factors.

    Returns:
        By the name of a tensor of the image tower, the file's own tensors, scales included.
    """
    raw = load_file(model.weights) if model.weights.is_file() else {}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for scale in (name for name in raw if name.rpartition(".")[2] == _SCALE):
        matrix = f"{scale.removesuffix(_SCALE)}weight"
        whole = matrix
        for ending in LOW_RANK:
            whole = whole.removesuffix(ending)
        if whole.startswith(_PREFIX):
            own = found.setdefault(whole.removeprefix(_PREFIX), {})
            own |= {matrix: raw[matrix], scale: raw[scale]}
    return found
