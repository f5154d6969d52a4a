"""Command line of a CLIP model's training; what it runs is imported when it runs.

By default both towers are locked and only their heads learn, on features that are computed once;
``--unlock-image`` and ``--unlock-text`` train the towers as well, or their last groups of layers.
"""

from __future__ import annotations

from typing import Annotated

import typer

from core.errors import SourceError
from precompute import terminal
from precompute.finetune.clip.recipe import ALL, RECIPES
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
            show_default="heads; towers with a tower unlocked",
        ),
    ] = None,
    unlock_image: Annotated[
        str | None,
        typer.Option(help="Last groups of layers of the image tower to train: a number, or all."),
    ] = None,
    unlock_text: Annotated[str | None, typer.Option(help="The same for the text tower.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images contrasted with each other at once.")
    ] = None,
    accumulation: Annotated[
        int | None,
        typer.Option(min=1, help="Split a batch into this many parts, to save memory."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Learning rate of the heads.")
    ] = None,
    tower_learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Learning rate of unlocked layers.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better R@5.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Write every weight in fp16.")] = False,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Fine-tune an open_clip model on images with captions.

    An interrupted run resumes with the same command.
    """
    image_groups = _groups(unlock_image, "--unlock-image")
    text_groups = _groups(unlock_text, "--unlock-text")
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "learning_rate": learning_rate,
        "tower_learning_rate": tower_learning_rate,
        "patience": patience,
        "seed": seed,
    }
    unlocked = image_groups or text_groups
    if unlocked:
        options |= {"unlock_image": image_groups or 0, "unlock_text": text_groups or 0}
    chosen = read_recipe(recipe, RECIPES, "towers" if unlocked else "heads", options)

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


def _groups(value: str | None, option: str) -> int | None:
    """Return how many groups are unlocked."""
    if value is None or value == "all":
        return ALL if value else None
    if not value.isdecimal():
        raise SourceError(f"{option} is {value!r}, but takes a number of groups, or all.")
    return int(value)
