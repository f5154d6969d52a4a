"""Contrastive training of the two projections of a CLIP model over frozen towers.

The image trunk and the text transformer stay as they are, so what they say of every image and
caption is computed once; the projections then learn on those features in seconds an epoch by
the symmetric InfoNCE loss. One caption of each image is drawn anew in every epoch, so that no
two rows of a batch describe the same image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.clip_towers import (
    ClipFiles,
    ImageTower,
    TextTower,
    find_clip_files,
    load_image_tower,
    load_text_tower,
    new_image_tower,
    new_text_tower,
)
from core.errors import SourceError
from core.files import sha256_of, write_atomically
from core.models import ModelSpec
from core.weights import ASSETS
from precompute.finetune.contrastive_recipe import DEFAULT_RECIPE, Recipe
from precompute.finetune.data import Pairs, load_pairs
from precompute.finetune.retrieval import Recall, evaluate, owners_of

if TYPE_CHECKING:
    import torch

    from precompute.finetune.projection_training import Features


def run(
    data: Annotated[str, typer.Option(help="Imagefolder or dataset id to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its metrics and checkpoint.")],
    validation: Annotated[
        list[str] | None,
        typer.Option(help="Imagefolder or dataset id to measure on; repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Found by itself if unique.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Found by its usual names.")] = None,
    limit: Annotated[int | None, typer.Option(help="Train on the first images only.")] = None,
    start_from: Annotated[
        Path,
        typer.Option(
            help="Model to start from: open_clip_config.json, model.safetensors.",
            show_default="assets/mini-clip",
        ),
    ] = ASSETS / "mini-clip",
    image_weights: Annotated[
        Path | None,
        typer.Option(help="ImageNet weights of the image trunk, .safetensors or .pth."),
    ] = None,
    new_projections: Annotated[
        bool, typer.Option(help="Start from random projections, not from the model's.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1)] = DEFAULT_RECIPE.epochs,
    batch_size: Annotated[int, typer.Option(min=2)] = DEFAULT_RECIPE.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = DEFAULT_RECIPE.learning_rate,
    weight_decay: Annotated[float, typer.Option(min=0)] = DEFAULT_RECIPE.weight_decay,
    dropout: Annotated[float, typer.Option(min=0, max=0.9)] = DEFAULT_RECIPE.dropout,
    views: Annotated[int, typer.Option(min=1)] = DEFAULT_RECIPE.views,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULT_RECIPE.seed,
) -> None:
    """Fine-tune the projections of a CLIP model on images with captions.

    Killed at any moment, the same command goes on from its last finished epoch, or view.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        views=views,
        seed=seed,
    )
    pairs = load_pairs(data, split, image_column, caption_column, limit)
    measured = [
        load_pairs(source, image_column=image_column, caption_column=caption_column)
        for source in validation or []
    ]
    start = find_clip_files(ModelSpec(start_from.name, f"path:{start_from}", licence=""))
    recalls = train(
        start,
        pairs,
        measured,
        out,
        recipe,
        image_weights=image_weights,
        new_projections=new_projections,
    )
    for found in recalls:
        typer.echo(str(found))


def train(
    start: ClipFiles,
    pairs: Pairs,
    measured: Sequence[Pairs],
    out: Path,
    recipe: Recipe,
    *,
    image_weights: Path | None = None,
    new_projections: bool = False,
    show: bool = True,
) -> list[Recall]:
    """Train, write the model into ``out``, and measure it as a search would use it.

    Args:
        start: The model to start from.
        pairs: Images with captions to train on.
        measured: Where to measure; the first is also measured after every epoch.
        out: Gets ``open_clip_config.json``, ``model.safetensors``, ``metrics.json``, and while
            training ``checkpoint.safetensors`` and ``features/``.
        recipe: How to train.
        image_weights: Weights for the image trunk in place of those of ``start``.
        new_projections: Start from random projections.
        show: Whether to draw progress bars.

    Returns:
        The recall on each of ``measured``, in order.

    Raises:
        SourceError: There are fewer images than a batch, ``out`` holds another run, or ``start``
            is another kind of model.
    """
    import torch

    from core.encoders import ClipEncoder
    from precompute.finetune.clip_asset import load_trunk, reset_projections, write_clip_asset
    from precompute.finetune.projection_training import Projections, fit

    if len(pairs) < recipe.batch_size:
        raise SourceError(
            f"{pairs.name} has {len(pairs)} images, fewer than a batch of {recipe.batch_size}."
        )
    out.mkdir(parents=True, exist_ok=True)
    # With everything given anew, the configuration alone is enough to start from.
    bare = new_projections and image_weights is not None
    image = new_image_tower(start) if bare else load_image_tower(start)
    text = new_text_tower(start) if bare else load_text_tower(start)
    image_projection = _part(start, image.module, "head")
    text_projection = _part(start, text.module, "proj")
    if image_weights is not None:
        load_trunk(_part(start, image.module, "trunk"), image_weights)
    if new_projections:
        reset_projections(recipe.seed, image_projection, text_projection)

    def features_of(source: Pairs, views: int) -> Features:
        return _features(source, image, text, views, recipe.seed, out / "features", show)

    learned_from = features_of(pairs, recipe.views)
    probe = features_of(measured[0], 1) if measured else None
    projections = Projections(image_projection, text_projection, recipe.logit_scale)
    projections.standardise(learned_from.images, keep=not new_projections)
    history = fit(
        projections,
        learned_from,
        recipe,
        checkpoint=out / "checkpoint.safetensors",
        identity={
            **asdict(recipe),
            "data": pairs.fingerprint,
            "new_projections": new_projections,
            "image_weights": sha256_of(image_weights) if image_weights else None,
            "start": None if bare else sha256_of(start.weights),
        },
        probe=probe,
        show=show,
    )
    projections.absorb()
    scale = float(projections.logit_scale.detach())
    write_clip_asset(out, start, image.module, text.module, scale)
    spec = ModelSpec(out.name, f"path:{out}", licence="", dim=start.model_cfg["embed_dim"])
    encoder = ClipEncoder(spec, device="cpu")
    recalls = [evaluate(encoder, source) for source in measured]
    report = {
        "recipe": asdict(recipe),
        "data": {"name": pairs.name, "images": len(pairs), "captions": len(learned_from.owners)},
        "recall": [found.as_json() for found in recalls],
        "history": history,
        "torch": torch.__version__,
    }
    write_atomically(out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
    return recalls


def _part(start: ClipFiles, tower: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        return tower.get_submodule(name)
    except AttributeError as error:
        raise SourceError(
            f"{start.spec.name} cannot be trained here: it needs a timm image tower and a "
            "Hugging Face text tower, each under a projection."
        ) from error


def _features(
    pairs: Pairs,
    image: ImageTower,
    text: TextTower,
    views: int,
    seed: int,
    cache: Path,
    show: bool,
) -> Features:
    from precompute.finetune.frozen_features import image_features, text_features
    from precompute.finetune.projection_training import Features

    captions = [caption for captions in pairs.captions for caption in captions]
    return Features(
        images=image_features(image, pairs, views=views, seed=seed, cache=cache, show=show),
        texts=text_features(text, captions, cache=cache, show=show),
        owners=owners_of(pairs),
        name=pairs.name,
    )
