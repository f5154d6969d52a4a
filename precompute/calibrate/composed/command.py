"""The command ``composed``: a gallery with references in, what queries of parts do there out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.quiet import quiet_libraries
from precompute import terminal


def run(
    gallery: Annotated[Path, typer.Argument(help="Gallery with reference captions.")],
    profile: terminal.ProfileOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Measure what X -Y leaves out and keeps, and what a picture and a word together find."""
    from core.config import get_settings
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES, Models
    from precompute.calibrate.composed import picture_words, subtraction

    quiet_libraries(downloads=False)
    chosen = PROFILES[profile.value if profile else get_settings().profile]
    opened, models = Gallery.open(gallery, chosen), Models(chosen, device=device)
    typer.echo(subtraction.table(subtraction.measure_subtraction(opened, models)))
    typer.echo(f"\n{picture_words.table(picture_words.measure_picture_words(opened, models))}")
