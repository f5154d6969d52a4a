"""The command ``stamps``: cut-outs of a Debian package become a folder of photos to build from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def run(
    out: Annotated[Path, typer.Argument(help="New folder of photos.")],
    stamps: Annotated[
        Path | None,
        typer.Option(
            help="Where the stamps are, if not where Debian's tuxpaint-stamps-default puts them."
        ),
    ] = None,
) -> None:
    """Make a folder of photos out of Tux Paint's stamps: animals, food, flowers, vehicles.

    They come with captions in English, which build keeps, and in dozens of other languages.
    """
    from precompute.sources.stamps import INSTALLED, write_stamps

    count = write_stamps(out, stamps or INSTALLED)
    command = ["python", "-m", "precompute", "build", str(out), "--out", f"galleries/{out.name}"]
    typer.echo(f"{out}: {count:,} photos. To build a gallery of them: {shlex.join(command)}")
