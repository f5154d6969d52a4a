"""The command ``threshold``: photos and pictures unlike them in, a rule in ``twolens.json`` out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from core.quiet import quiet_libraries


def run(
    model: Annotated[str, typer.Argument(help="Folder of the captioner, or asset:NAME.")],
    like: Annotated[
        str, typer.Option(help="Imagefolder or dataset id: photos it was made for, not trained on.")
    ],
    unlike: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Pictures unlike them; screenshots, pages, drawings, charts, noise and colours "
            "are made if not given, and scikit-image's samples added.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --like.")] = None,
    limit: Annotated[int, typer.Option(min=20, help="Photos, evenly spread.")] = 200,
    share: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of the photos' captions called unsure.")
    ] = 0.1,
    clip: Annotated[
        str | None, typer.Option(help="CLIP model that judges; the mini profile's if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and write nothing.")] = False,
) -> None:
    """Choose when the captions of a captioner are called unsure, and write that beside it.

    A tenth of the photos' captions is called unsure, those that fit their photos least. Pictures
    unlike the photos do not enter the choice; the share of theirs that is caught is reported.
    """
    from core.config import get_settings
    from core.images.decode import DecodeLimits
    from core.models.choose import captioner_spec, with_clip
    from core.models.profiles import PROFILES, Models
    from precompute.calibrate.threshold import (
        choose_rule,
        summary,
        unlike_pictures,
        writable_folder,
        write_rule,
    )
    from precompute.sources.pairs import load_pairs

    quiet_libraries(downloads=False)
    profile = with_clip(replace(PROFILES["mini"], captioner=captioner_spec(model)), clip)
    folder = writable_folder(profile.captioner)
    photos = load_pairs(like, split).spread(limit).readable()
    pictures = unlike_pictures(unlike, DecodeLimits.of(get_settings()))
    choice = choose_rule(Models(profile, device=device), photos, pictures, share)
    typer.echo(summary(choice))
    if not dry_run:
        write_rule(folder, choice, profile.clip.name, photos.name)
        typer.echo(f"Written into {folder.name}/twolens.json.")
