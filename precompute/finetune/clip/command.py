"""Fine-tuning of an open_clip model on images with captions, and on a teacher's embeddings.

By default both towers are locked and only their heads learn, on features that are computed once;
``--unlock-image`` and ``--unlock-text`` train the towers as well, or their last groups of layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precompute.finetune.clip.recipe import (
    ALL,
    FEW_VIEWS,
    HEADS_RECIPE,
    TOWERS_RECIPE,
    Distillation,
    LossName,
    Recipe,
)


def run(
    data: Annotated[str, typer.Option(help="Imagefolder or dataset id to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its metrics and checkpoint.")],
    validation: Annotated[
        list[str] | None,
        typer.Option(
            help="Imagefolder or dataset id to measure on; repeatable. The epoch with the best R@5 "
            "on the first is kept."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Found by itself if unique.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Found by its usual names.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Train on the first images only.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="open_clip model to start from: asset:NAME, a folder with open_clip_config.json "
            "and model.safetensors, or a Hub id, OWNER/NAME@REVISION."
        ),
    ] = "asset:mini-clip",
    image_weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the image tower in place of the model's, .safetensors or .pth: the "
            "tower's own, or those published for its timm trunk."
        ),
    ] = None,
    new_projections: Annotated[
        bool,
        typer.Option(
            "--new-projections", help="Start from random heads, but for one in --image-weights."
        ),
    ] = False,
    new_text_head: Annotated[
        bool, typer.Option("--new-text-head", help="Start from a random text head alone.")
    ] = False,
    unlock_image: Annotated[
        str,
        typer.Option(help="Last groups of layers of the image tower to train: a number, or all."),
    ] = "0",
    unlock_text: Annotated[str, typer.Option(help="Likewise, of the text tower.")] = "0",
    lock_image_head: Annotated[
        bool, typer.Option("--lock-image-head", help="Leave the image head as it is too.")
    ] = False,
    lock_text_head: Annotated[
        bool, typer.Option("--lock-text-head", help="Leave the text head as it is too.")
    ] = False,
    loss: Annotated[LossName, typer.Option(help="Contrastive loss.")] = HEADS_RECIPE.loss,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Whose image embeddings to learn as well: .safetensors or .npy with file names, "
            "or an open_clip model, named as --model is."
        ),
    ] = None,
    distill_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the teacher beside the contrastive loss.")
    ] = HEADS_RECIPE.distill_weight,
    distillation: Annotated[
        Distillation,
        typer.Option(
            help="What to learn: its embeddings (cosine), whom each image is like (similarity), or "
            "both where the dimensions are equal (auto)."
        ),
    ] = HEADS_RECIPE.distillation,
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of images for the teacher alone; repeatable."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default=f"{HEADS_RECIPE.epochs}, or {TOWERS_RECIPE.epochs} with a tower unlocked",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Images contrasted with each other.",
            show_default=f"{HEADS_RECIPE.batch_size}, or {TOWERS_RECIPE.batch_size} with a tower "
            "unlocked",
        ),
    ] = None,
    accumulation: Annotated[
        int,
        typer.Option(min=1, help="Parts in which a batch passes the towers, to save memory."),
    ] = HEADS_RECIPE.accumulation,
    grad_checkpointing: Annotated[
        bool,
        typer.Option("--grad-checkpointing", help="Compute activations again, to save memory."),
    ] = False,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of the heads.",
            show_default=f"{HEADS_RECIPE.learning_rate}, or {TOWERS_RECIPE.learning_rate} with a "
            "tower unlocked",
        ),
    ] = None,
    tower_learning_rate: Annotated[
        float, typer.Option(min=0, help="Of what is unlocked.")
    ] = HEADS_RECIPE.tower_learning_rate,
    weight_decay: Annotated[float, typer.Option(min=0)] = HEADS_RECIPE.weight_decay,
    dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="On the features of a locked image tower.")
    ] = HEADS_RECIPE.dropout,
    captions_per_image: Annotated[
        int, typer.Option(min=1, help="Captions of each image in a step.")
    ] = HEADS_RECIPE.captions_per_image,
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each image: itself, its mirror image, crops.",
            show_default=f"{FEW_VIEWS}, or new ones in every epoch with the image tower "
            "unlocked and no teaching model",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many epochs without a better R@5."),
    ] = None,
    half: Annotated[
        bool,
        typer.Option("--half", help="Write every weight in fp16, not as the model had it."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode.", show_default="one a core")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16, or auto: bf16 on a GPU that has it.", metavar="auto|fp32|bf16"
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = HEADS_RECIPE.seed,
) -> None:
    """Fine-tune an open_clip model on images with captions.

    Killed at any moment, the same command goes on. For several GPUs, put
    "accelerate launch -m precompute" in the place of "python -m precompute".
    """
    unlocked = _groups(unlock_image, "--unlock-image"), _groups(unlock_text, "--unlock-text")
    defaults = TOWERS_RECIPE if any(unlocked) else HEADS_RECIPE

    from core.quiet import quiet_libraries

    quiet_libraries(downloads=True)
    from core.models.choose_clip import clip_spec
    from core.models.clip.towers import find_clip_files
    from precompute.finetune.clip.preparation import Inputs
    from precompute.finetune.clip.run import on_device, train
    from precompute.finetune.shared.data import load_pairs
    from precompute.finetune.shared.images import FolderImages

    accelerator, chosen = on_device(device, precision)
    recipe = Recipe(
        epochs=epochs or defaults.epochs,
        batch_size=batch_size or defaults.batch_size,
        learning_rate=defaults.learning_rate if learning_rate is None else learning_rate,
        tower_learning_rate=tower_learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        views=views,
        loss=loss,
        captions_per_image=captions_per_image,
        unlock_image=unlocked[0],
        unlock_text=unlocked[1],
        lock_image_head=lock_image_head,
        lock_text_head=lock_text_head,
        accumulation=accumulation,
        grad_checkpointing=grad_checkpointing,
        distill_weight=distill_weight,
        distillation=distillation,
        precision=chosen,
        patience=patience,
        seed=seed,
    )
    inputs = Inputs(
        start=find_clip_files(clip_spec(model)),
        pairs=load_pairs(data, split, image_column, caption_column, limit).readable(),
        measured=[
            load_pairs(source, None, image_column, caption_column).readable()
            for source in validation or []
        ],
        unlabelled=[FolderImages.read(folder) for folder in unlabelled or []],
        teacher=teacher,
        image_weights=image_weights,
        new_heads=("image", "text") if new_projections else ("text",) if new_text_head else (),
    )
    for found in train(inputs, out, recipe, accelerator, half=half, workers=workers):
        typer.echo(str(found))


def _groups(value: str, option: str) -> int:
    """Return how many groups are unlocked."""
    from core.errors import SourceError

    if value == "all":
        return ALL
    if not value.isdecimal():
        raise SourceError(f"{option} is {value!r}, but takes a number of groups, or all.")
    return int(value)
