"""The command ``threshold``: photos and other pictures in, a rule in ``twolens.json`` out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from core.quiet import quiet_libraries
from precompute import terminal


def run(
    model: Annotated[str, typer.Argument(help="Folder of the captioner, or asset:NAME.")],
    data: Annotated[
        str,
        typer.Option(
            help="Imagefolder or dataset id: photos such as it was made for, not trained on."
        ),
    ],
    out_of_distribution: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of other kinds of pictures; without it screenshots, pages, drawings, "
            "charts, noise and colours are made, and scikit-image's samples added.",
        ),
    ] = None,
    split: terminal.SplitOption = None,
    limit: Annotated[int, typer.Option(min=20, help="Photos, evenly spread.")] = 200,
    share: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Share of the photos' captions to mark unsure."),
    ] = 0.1,
    clip: Annotated[
        str | None,
        typer.Option(help="CLIP model that scores the captions; the mini profile's if not given."),
    ] = None,
    device: terminal.DeviceOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and write nothing.")] = False,
) -> None:
    """Choose the threshold below which a caption is marked unsure, and write it beside the model.

    The tenth of the photos' captions that fit their photos least is marked unsure. The share of
    out-of-distribution pictures that this catches is reported; it does not enter the choice.
    """
    from core.config import get_settings
    from core.images.decode import DecodeLimits
    from core.models.choose import captioner_spec, with_clip
    from core.models.profiles import PROFILES, Models
    from precompute.calibrate.threshold import (
        choose_rule,
        out_of_distribution_pictures,
        summary,
        writable_folder,
        write_rule,
    )
    from precompute.sources.pairs import load_pairs

    quiet_libraries(downloads=False)
    profile = with_clip(replace(PROFILES["mini"], captioner=captioner_spec(model)), clip)
    folder = writable_folder(profile.captioner)
    photos = load_pairs(data, split).spread(limit).readable()
    pictures = out_of_distribution_pictures(out_of_distribution, DecodeLimits.of(get_settings()))
    choice = choose_rule(Models(profile, device=device), photos, pictures, share)
    typer.echo(summary(choice))
    if not dry_run:
        write_rule(folder, choice, profile.clip.name, photos.name)
        typer.echo(f"Written into {folder.name}/twolens.json.")
