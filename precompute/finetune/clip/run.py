"""One run of ``finetune contrastive``: from what was asked for to the folder that search loads."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from core.errors import SourceError
from core.files import write_atomically
from core.models.clip.encoder import ClipEncoder
from core.models.devices import resolve_device
from core.models.locate import revision_of
from core.models.spec import ImageTextEncoder, ModelSpec
from precompute.evaluate.metrics.retrieval_metrics import Recall, owners_of, recall
from precompute.finetune.clip.asset import write_clip_asset
from precompute.finetune.clip.preparation import Inputs, prepare
from precompute.finetune.clip.recipe import ContrastiveRecipe
from precompute.finetune.clip.training import batched, fit
from precompute.sources.pairs import Pairs


def train(
    inputs: Inputs,
    out: Path,
    recipe: ContrastiveRecipe,
    device: str = "auto",
    *,
    half: bool = False,
) -> list[Recall]:
    """Train, write the best epoch into ``out``, and measure it as a search would use it.

    Args:
        inputs: What to start and to learn from.
        out: Gets ``open_clip_config.json``, ``model.safetensors`` and ``metrics.json``; and, while
            training, ``checkpoint/``, ``features/`` and ``log/``.
        recipe: How to train.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        half: Whether every tensor is written in half precision.

    Returns:
        The recall on each of ``inputs.measured``, in order.

    Raises:
        SourceError: What was asked for does not fit together, or ``out`` holds another run.
        ModelError: There is no such device.
    """
    where = resolve_device(device)
    _check(inputs, recipe)
    model, material_of = prepare(inputs, recipe, where, out / "features")
    pairs = inputs.pairs
    material = material_of(pairs)
    probe = material_of(inputs.measured[0]) if inputs.measured else None
    history = fit(
        model,
        recipe,
        material,
        probe,
        lambda: write_clip_asset(out, inputs.start, model, half=half),
        out=out,
        identity={
            **asdict(recipe),
            "data": pairs.fingerprint,
            "model_cfg": dict(inputs.start.model_cfg),
            "start": revision_of(inputs.start.spec),
            "new_text_head": inputs.new_text_head,
        },
    )
    spec = ModelSpec(out.name, f"path:{out}", licence="", dim=inputs.start.model_cfg["embed_dim"])
    encoder = ClipEncoder(spec, device=where)
    recalls = [evaluate(encoder, source) for source in inputs.measured]
    report = {
        "model": inputs.start.spec.name,
        "recipe": asdict(recipe),
        "data": {"name": pairs.name, "images": len(pairs), "captions": len(material.owners)},
        "recall": [found.as_json() for found in recalls],
        "history": history,
        "torch": torch.__version__,
    }
    write_atomically(out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
    return recalls


def evaluate(encoder: ImageTextEncoder, pairs: Pairs) -> Recall:
    """Search every caption of a dataset among all its images."""
    rows = batched(len(pairs))
    images = [encoder.encode_image([pairs.image(row) for row in batch]) for batch in rows]
    texts = encoder.encode_text([text for captions in pairs.captions for text in captions])
    return recall(pairs.name, np.concatenate(images), texts, owners_of(pairs))


def _check(inputs: Inputs, recipe: ContrastiveRecipe) -> None:
    """Refuse, before anything is loaded or written, what cannot work."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise SourceError(
            f"{processes} processes were started, but a CLIP model is trained by one: "
            "run python -m precompute finetune contrastive without a launcher."
        )
    images = len(inputs.pairs)
    if images < recipe.batch_size:
        raise SourceError(
            f"{inputs.pairs.name} has {images} images, fewer than a batch of {recipe.batch_size}."
        )
    if recipe.patience is not None and not inputs.measured:
        raise SourceError("Patience needs a --validation to tell when a run gets no better.")
    if "multimodal_cfg" in inputs.start.model_cfg:
        raise SourceError(f"{inputs.start.spec.name} is a CoCa model, which is not trained here.")
