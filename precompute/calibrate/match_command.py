"""The command ``match``: a gallery with references in, a threshold for each lens out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.quiet import quiet_libraries
from precompute import terminal


def run(
    gallery: Annotated[
        Path,
        typer.Argument(help="Gallery with reference captions, of photos not trained on."),
    ],
    others: Annotated[
        str | None,
        typer.Option(help="Photos with captions of another domain: queries that nothing matches."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --others.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Photos of --others, evenly spread.")] = 500,
    share: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of good queries that may be flagged.")
    ] = 0.05,
    profile: terminal.ProfileOption = None,
    clip: Annotated[
        str | None,
        typer.Option(help="CLIP model that built the gallery, if it was not the profile's."),
    ] = None,
    device: terminal.DeviceOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and write nothing.")] = False,
) -> None:
    """Choose when the page says that nothing matches, for each lens, and keep that by model.

    At most a twentieth of the queries whose photo is in the gallery is flagged. Queries that have
    no photo there do not enter the choice; the share of them that is caught is reported by kind.
    """
    from core.config import get_settings
    from core.gallery.reader import Gallery
    from core.models.choose import with_clip
    from core.models.match_threshold import MATCH_FILE
    from core.models.profiles import PROFILES, Models
    from precompute.calibrate.match import choose_thresholds, summary, write_thresholds
    from precompute.sources.pairs import load_pairs

    quiet_libraries(downloads=False)
    named = PROFILES[profile.value if profile else get_settings().profile]
    chosen = with_clip(named, clip or get_settings().clip)
    models = Models(chosen, device=device)
    opened = Gallery.open(gallery, chosen)
    elsewhere = load_pairs(others, split).spread(limit) if others else None
    texts = [own[0] for own in elsewhere.captions] if elsewhere else []
    choices = choose_thresholds(opened, models, texts, share)
    for choice in choices:
        typer.echo(summary(choice))
    if not dry_run:
        write_thresholds(MATCH_FILE, choices, models, opened.name)
        typer.echo(f"Written into {MATCH_FILE.parent.name}/{MATCH_FILE.name}.")
