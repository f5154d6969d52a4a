"""Command line of the captioner's training; what it runs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from core.errors import SourceError
from precompute import terminal
from precompute.finetune.captions.recipe import RECIPES, LoraRecipe
from precompute.finetune.shared.recipes import read_recipe

_SMALL = "asset:mini-instructblip"


def run(
    data: terminal.DataOption,
    out: terminal.OutOption,
    validation: terminal.ValidationOption = None,
    split: terminal.SplitOption = None,
    validation_split: Annotated[str | None, typer.Option(help="Split of --validation.")] = None,
    image_column: terminal.ImageColumnOption = None,
    caption_column: terminal.CaptionColumnOption = None,
    limit: terminal.LimitOption = None,
    model: Annotated[
        str,
        typer.Option(
            help="InstructBLIP checkpoint to start from: folder, asset:NAME, or Hub id, "
            "OWNER/NAME[@REVISION]."
        ),
    ] = _SMALL,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(RECIPES)}, or a JSON file with some of a recipe's fields.",
            show_default="all weights, or an adapter over 500 million parameters",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="0 only measures.")] = None,
    batch_size: terminal.BatchSizeOption = None,
    learning_rate: terminal.LearningRateOption = None,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Train an adapter beside the language model.")
    ] = None,
    start_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.95,
            help="Interpolate with the initial weights, which get this share: learns less of the "
            "new data and forgets less of the old.",
        ),
    ] = None,
    patience: terminal.PatienceOption = None,
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Write all matrices in 8 bits: half the size.")
    ] = False,
    seed: terminal.SeedOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Fine-tune an InstructBLIP captioner on images with captions.

    An interrupted run resumes with the same command, from the last checkpoint. On several GPUs:
    accelerate launch -m precompute finetune captions ...
    """
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "lora": LoraRecipe(lora_rank) if lora_rank else None,
        "start_share": start_share,
        "patience": patience,
        "seed": seed,
    }
    chosen = read_recipe(recipe, RECIPES, "default", options)
    if not chosen.epochs and validation is None:
        raise SourceError("--epochs 0 only measures, and needs --validation to measure on.")

    from precompute.finetune.captions.job import Job
    from precompute.finetune.captions.start import find_model, prepare
    from precompute.sources.pairs import load_pairs

    spec = find_model(model)
    columns = image_column, caption_column
    pairs = load_pairs(data, split, *columns, limit).readable()
    measured = load_pairs(validation, validation_split, *columns).readable() if validation else None
    prepared = prepare(spec, chosen, out, device, eight_bit=eight_bit)
    Job(prepared, pairs, measured, say=typer.echo).run()
