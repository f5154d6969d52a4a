"""Command line of lending: a CLIP model borrows a captioner's image tower, with differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_TYPICAL = 64


def run(
    model: Annotated[
        str, typer.Argument(help="CLIP model that gives all but the tower: folder or asset:NAME.")
    ],
    tower: Annotated[
        Path, typer.Option(help="image_tower.safetensors of finetune distil, which it gets.")
    ],
    lender: Annotated[
        str, typer.Option(help="InstructBLIP checkpoint to borrow from: folder or asset:NAME.")
    ],
    images: Annotated[
        Path, typer.Option(help="Folder of images; a few show which differences matter.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    without: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Block of the lender that the tower lacks, from 0; repeatable."),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the differences.")] = 128,
) -> None:
    """Store a CLIP model's image tower as low-rank differences from a captioner's.

    Both must have grown from the same weights. Train the heads afterwards, with
    ``finetune contrastive --model OUT``.
    """
    from core.quiet import quiet_libraries

    quiet_libraries(downloads=True)
    from core.captioner_choice import captioner_spec
    from core.clip_choice import clip_spec
    from core.clip_towers import find_clip_files
    from precompute.finetune.image_views import FolderImages
    from precompute.finetune.tower_lending import lend_tower

    found = FolderImages.read(images)
    rows = range(0, len(found), max(1, len(found) // _TYPICAL))
    report = lend_tower(
        find_clip_files(clip_spec(model)),
        tower,
        captioner_spec(lender),
        out,
        without=sorted(set(without or ())),
        rank=rank,
        images=[found.image(row) for row in rows],
    )
    typer.echo(str(report))
