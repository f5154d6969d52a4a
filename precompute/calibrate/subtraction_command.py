"""The command ``subtraction``: a gallery with references in, what ``X -Y`` does there out."""

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
    """Measure whether a subtracted word is left out, and the other one kept, by weight."""
    from core.config import get_settings
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES, Models
    from precompute.calibrate.subtraction import measure_subtraction, table

    quiet_libraries(downloads=False)
    chosen = PROFILES[profile.value if profile else get_settings().profile]
    opened = Gallery.open(gallery, chosen)
    typer.echo(table(measure_subtraction(opened, Models(chosen, device=device))))
