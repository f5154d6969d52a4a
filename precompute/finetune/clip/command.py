"""Command line of a CLIP model's training; what it runs is imported when it runs.

By default both towers are locked and only their heads learn, on features that are computed once;
other recipes train the towers as well, or their last groups of layers.
"""

from __future__ import annotations

from typing import Annotated

import typer

from precompute import terminal
from precompute.finetune.clip.recipe import RECIPES
from precompute.finetune.shared.recipes import read_recipe


def run(
    data: terminal.DataOption,
    out: terminal.OutOption,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            help="Imagefolder or dataset id to measure on; repeatable. The epoch with the best R@5 "
            "on the first is kept."
        ),
    ] = None,
    split: terminal.SplitOption = None,
    image_column: terminal.ImageColumnOption = None,
    caption_column: terminal.CaptionColumnOption = None,
    limit: terminal.LimitOption = None,
    model: Annotated[
        str,
        typer.Option(
            help="open_clip model to start from: asset:NAME, a folder with open_clip_config.json "
            "and model.safetensors, or a Hub id, OWNER/NAME@REVISION."
        ),
    ] = "asset:mini-clip",
    new_text_head: Annotated[
        bool, typer.Option("--new-text-head", help="Start from a random text head.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(RECIPES)}, or a JSON file with some of a recipe's fields.",
            show_default="heads",
        ),
    ] = None,
    epochs: terminal.EpochsOption = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images contrasted with each other at once.")
    ] = None,
    learning_rate: terminal.LearningRateOption = None,
    patience: terminal.PatienceOption = None,
    half: Annotated[bool, typer.Option("--half", help="Write every weight in fp16.")] = False,
    seed: terminal.SeedOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Fine-tune an open_clip model on images with captions.

    An interrupted run resumes with the same command.
    """
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "seed": seed,
    }
    chosen = read_recipe(recipe, RECIPES, "heads", options)

    from core.quiet import quiet_libraries

    quiet_libraries(downloads=True)
    from core.models.choose import clip_spec
    from core.models.clip.towers import find_clip_files
    from precompute.finetune.clip.preparation import Inputs
    from precompute.finetune.clip.run import train
    from precompute.sources.pairs import load_pairs

    columns = image_column, caption_column
    inputs = Inputs(
        start=find_clip_files(clip_spec(model)),
        pairs=load_pairs(data, split, *columns, limit).readable(),
        measured=[load_pairs(each, None, *columns).readable() for each in validation or []],
        new_text_head=new_text_head,
    )
    for found in train(inputs, out, chosen, device, half=half):
        typer.echo(str(found))
