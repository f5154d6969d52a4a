"""One run of ``finetune contrastive``: from what was asked for to the folder that search loads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator

from core.errors import ModelError, SourceError
from core.files import write_atomically
from core.models.clip.encoder import ClipEncoder
from core.models.devices import resolve_device
from core.models.spec import ModelSpec
from precompute.finetune.clip.asset import (
    write_clip_asset,
)
from precompute.finetune.clip.preparation import Inputs, Preparation
from precompute.finetune.clip.recipe import (
    Precision,
    Recipe,
)
from precompute.finetune.clip.training import ContrastiveTraining
from precompute.finetune.shared.recall import Recall, evaluate

CHECKPOINT = Path("checkpoint") / "training.safetensors"
"""In the folder of a run; apart from the model, whose revision covers its folder's files."""

_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16"}


def on_device(device: str, precision: str) -> tuple[Accelerator, Precision]:
    """Return where a run computes, and in which precision.

    Args:
        device: See ``resolve_device``; with several processes, one GPU each.
        precision: ``fp32``, ``bf16`` or ``auto``: bf16 on a GPU that has it.

    Raises:
        ModelError: There is no such device or precision.
    """
    where = resolve_device(device)
    is_cuda = where.startswith("cuda")
    if where.startswith("cuda:"):
        torch.cuda.set_device(where)
    if precision == "auto":
        precision = "bf16" if is_cuda and torch.cuda.is_bf16_supported() else "fp32"
    if precision not in _PRECISIONS:
        raise ModelError(f"The precision {precision!r} is not one of auto, fp32 and bf16.")
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(cpu=not is_cuda, mixed_precision=mixed), _PRECISIONS[precision]


def train(
    inputs: Inputs,
    out: Path,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    half: bool = False,
    workers: int | None = None,
    show: bool = True,
) -> list[Recall]:
    """Train, write the best epoch into ``out``, and measure it as a search would use it.

    Args:
        inputs: What to start and to learn from.
        out: Gets ``open_clip_config.json``, ``model.safetensors`` and ``metrics.json``; and, while
            training, ``checkpoint/``, ``features/`` and ``log/``.
        recipe: How to train.
        accelerator: Where.
        half: Whether every tensor is written in half precision.
        workers: Threads that decode; None takes one a core.
        show: Whether to draw progress bars.

    Returns:
        The recall on each of ``inputs.measured``, in order; nothing on any but the main process.

    Raises:
        SourceError: What was asked for does not fit together, or ``out`` holds another run.
    """
    _check(inputs, recipe, accelerator.num_processes)
    preparation = Preparation(inputs, recipe, accelerator, out, workers, show)
    student, material, probe = preparation.read()
    training = ContrastiveTraining(
        student,
        recipe,
        accelerator,
        checkpoint=out / CHECKPOINT,
        identity={**asdict(recipe), **inputs.identity()},
        log=out / "log",
        show=show,
    )
    history = training.fit(
        material, probe, lambda: write_clip_asset(out, inputs.start, student, half=half)
    )
    if not accelerator.is_main_process:
        return []
    spec = ModelSpec(out.name, f"path:{out}", licence="", dim=inputs.start.model_cfg["embed_dim"])
    encoder = ClipEncoder(spec, device=str(accelerator.device))
    recalls = [evaluate(encoder, source) for source in inputs.measured]
    report = {
        "model": inputs.start.spec.name,
        "recipe": asdict(recipe),
        "data": {
            "name": inputs.images.name,
            "images": len(inputs.pairs),
            "captions": len(material.owners),
            "unlabelled": material.unlabelled,
        },
        "recall": [found.as_json() for found in recalls],
        "history": history,
        "torch": torch.__version__,
    }
    write_atomically(out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
    return recalls


def _check(inputs: Inputs, recipe: Recipe, processes: int) -> None:
    """Refuse, before anything is loaded or written, what cannot work."""
    images = len(inputs.pairs)
    if images < recipe.batch_size:
        raise SourceError(
            f"{inputs.pairs.name} has {images} images, fewer than a batch of {recipe.batch_size}."
        )
    if recipe.batch_size % processes:
        raise SourceError(
            f"A batch of {recipe.batch_size} cannot be shared by {processes} processes equally."
        )
    if recipe.accumulation > recipe.batch_size // processes:
        raise SourceError(
            f"A batch of {recipe.batch_size} cannot be cut into {recipe.accumulation} parts."
        )
    if inputs.unlabelled and inputs.teacher is None:
        raise SourceError("--unlabelled images teach nothing without a --teacher.")
    if recipe.patience is not None and not inputs.measured:
        raise SourceError("--patience needs a --validation to tell when a run gets no better.")
    if inputs.teacher_file and not inputs.teacher_file.is_file():
        raise SourceError(f"There is no file {inputs.teacher_file}.")
    if inputs.image_weights and not inputs.image_weights.is_file():
        raise SourceError(f"There is no file {inputs.image_weights}.")
    if "multimodal_cfg" in inputs.start.model_cfg:
        raise SourceError(f"{inputs.start.spec.name} is a CoCa model, which is not trained here.")
