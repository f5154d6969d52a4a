"""Command line of the distillation of a small image tower; what it runs is imported when it runs.

Images with captions or without: what is learnt is what a teacher says of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precompute.mini.distil_recipe import DEFAULT_RECIPE, DistilRecipe


def run(
    data: Annotated[list[Path], typer.Option(help="Folder of images to learn on; repeatable.")],
    teacher: Annotated[
        Path, typer.Option(help="CLIP image tower (ONNX, 224 px); the student starts as its copy.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tower and the teacher's answers.")],
    validation: Annotated[
        Path | None, typer.Option(help="Folder of images to measure the likeness on.")
    ] = None,
    patch_size: Annotated[
        int, typer.Option(min=16, help="Pixels a side of the student's patches.")
    ] = DEFAULT_RECIPE.patch_size,
    without: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Block of the teacher to leave out, from 0; repeatable."),
    ] = None,
    epochs: Annotated[float, typer.Option(min=0)] = DEFAULT_RECIPE.epochs,
    batch_size: Annotated[int, typer.Option(min=2)] = DEFAULT_RECIPE.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = DEFAULT_RECIPE.learning_rate,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps after which progress is kept and measured.")
    ] = 150,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULT_RECIPE.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Distil a CLIP image tower into a faster one, for a captioner and a CLIP model to share.

    Gives a folder for ``finetune captions --init-vision`` and, in it, ``image_tower.safetensors``
    for ``finetune contrastive --image-weights``. Killed, the same command goes on.
    """
    recipe = DistilRecipe(
        patch_size=patch_size,
        without=tuple(sorted(set(without or ()))),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    from core.quiet import quiet_libraries

    quiet_libraries(downloads=True)
    from core.models.devices import resolve_device
    from precompute.finetune.shared.images import FolderImages, Joined
    from precompute.mini.distillation import distil

    images = Joined(tuple(FolderImages.read(folder) for folder in data))
    measured = FolderImages.read(validation) if validation else None
    report = distil(
        images,
        measured,
        teacher,
        out,
        recipe,
        device=resolve_device(device),
        save_every=save_every,
        say=typer.echo,
    )
    typer.echo(str(report))
