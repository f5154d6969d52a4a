"""The recipe of ``mini-instructblip``: a fresh Q-Former and T5 behind an image tower."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from precompute import terminal
from precompute.finetune.captions.recipe import CaptionRecipe
from precompute.finetune.shared.recipes import read_recipe

FIRST = CaptionRecipe(
    epochs=20,
    batch_size=32,
    learning_rate=1e-3,
    feature_dropout=0.1,
    word_dropout=0.1,
    max_tokens=20,
    trains=("language",),
)
"""From nothing: the Q-Former learns, then the T5."""

SECOND = replace(FIRST, epochs=3, feature_dropout=0.0, dropout=0.15, start_share=0.3)
"""Continues with the T5 of the first, with dropout; it finds a little less and reads better."""

RECIPES = {"first": FIRST, "second": SECOND}

_MIN_COUNT = 4
"""Words used less often are left out of the vocabulary."""


def run(
    data: terminal.DataOption,
    out: terminal.OutOption,
    tower: Annotated[
        str, typer.Option(help="First stage: InstructBLIP checkpoint whose image tower is taken.")
    ] = "asset:mini-instructblip",
    first: Annotated[
        Path | None, typer.Option(help="Second stage: the folder of the first one.")
    ] = None,
    validation: terminal.ValidationOption = None,
    epochs: terminal.EpochsOption = None,
    batch_size: terminal.BatchSizeOption = None,
    seed: terminal.SeedOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Train the small captioner: first stage behind an image tower, second stage with --first.

    An interrupted run resumes with the same command. The weights are written in 8 bits.
    """
    options = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    recipe = read_recipe("second" if first else "first", RECIPES, "first", options)

    import torch

    from core.models.captioner.loading import read_instructblip
    from precompute.finetune.captions.job import Job
    from precompute.finetune.captions.start import accelerator_on, assemble, find_model, prepare
    from precompute.mini.captioner_model import SMALL_DECODING, SmallSizes, new_model, new_tokenizer
    from precompute.mini.pretraining import PretrainingRecipe, embeddings_to_read
    from precompute.sources.pairs import load_pairs

    spec = find_model(str(first) if first else tower)
    pairs = load_pairs(data).readable()
    measured = load_pairs(validation).readable() if validation else None
    if first is not None:
        prepared = prepare(spec, recipe, out, device, eight_bit=True)
    else:
        accelerator, where = accelerator_on(device)
        source, images = read_instructblip(spec, "cpu", "fp32")
        tokenizer = new_tokenizer((t for own in pairs.captions for t in own), min_count=_MIN_COUNT)
        torch.manual_seed(recipe.seed)
        model, processor = new_model(
            tokenizer, source.vision_model, images.image_processor, SmallSizes()
        )
        prepared = assemble(
            model.to(where),
            processor,
            SMALL_DECODING,
            recipe.completed(large=False, gpu=False),
            out,
            accelerator,
            eight_bit=True,
        )
    taught = PretrainingRecipe()
    identity = {"pretraining": asdict(taught)}
    job = Job(prepared, pairs, measured, identity=identity, say=typer.echo)
    job.run(*embeddings_to_read(job, pairs, taught, first))
