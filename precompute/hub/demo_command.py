"""The command ``demo-gallery``: from a preset to a public Space, each step a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from core.errors import HubError
from precompute.terminal import ProfileChoice, say

REPORT = "build_report.json"


def run(
    preset: Annotated[str, typer.Argument(help="A dataset by name; build --list-presets.")],
    owner: Annotated[
        str, typer.Argument(help="User or organisation of the Hub that gets gallery and Space.")
    ],
    profile: Annotated[
        ProfileChoice, typer.Option(help="Set of models; full needs a GPU.")
    ] = ProfileChoice.full,
    hardware: Annotated[str, typer.Option(help="Of the Space; see publish space.")] = "zero",
    folder: Annotated[Path, typer.Option(help="Where the gallery is built.")] = Path("galleries"),
    measured: Annotated[
        int, typer.Option(min=1, help="Pictures whose speed tells the hours of all.")
    ] = 200,
    hours: Annotated[
        bool, typer.Option("--hours", help="Say how many hours it takes here, and stop.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="For you alone to see, where it is new.")
    ] = False,
) -> None:
    """Build a gallery of a preset, measure it, and publish it and a Space that serves it.

    First some pictures are built to say how many hours all take on this machine. What was broken
    off goes on when the same command is given again.
    """
    from precompute.sources.presets import preset as preset_named

    chosen = preset_named(preset)
    typer.echo(f"{chosen.title}. Licence: {chosen.licence}.")
    build = ["build", "--preset", chosen.name, "--profile", profile.value]
    gallery, tried = folder / chosen.name, folder / f"{chosen.name}-first-{measured}"
    if hours or not gallery.exists():
        _step([*build, "--limit", str(measured), "--out", str(tried)])
        typer.echo(time_of(chosen.read, tried / REPORT))
    if hours:
        return
    dataset = f"{owner}/twolens-{chosen.name}"
    alone = ["--private"] if private else []
    _step([*build, "--out", str(gallery)])
    if chosen.caption_column:
        _step(["evaluate", str(gallery)])
    _step(["publish", "gallery", str(gallery), dataset, *alone])
    served = ["--gallery", f"hf:{dataset}", "--profile", profile.value, "--hardware", hardware]
    _step(["publish", "space", f"{owner}/twolens", *served, *alone])


def time_of(images: int, report: Path) -> str:
    """Return a sentence on how long a build takes, by the speed that one of a part had.

    Args:
        images: Of the whole.
        report: Of the part. Its speed counts loading the models too, so the whole takes less.
    """
    speed = json.loads(report.read_text(encoding="utf-8"))["images_per_second"]
    needed = images / speed / 3600
    return (
        f"{images:,} pictures at {speed:.1f} a second take at most {needed:.2f} hours on this "
        "machine, of its GPU if it has one."
    )


def _step(command: list[str]) -> None:
    say(f"\npython -m precompute {' '.join(command)}")
    done = subprocess.run([sys.executable, "-m", "precompute", *command], check=False)
    if done.returncode:
        raise HubError(
            f"{' '.join(command[:2])} ended with status {done.returncode}; the same command goes "
            "on from there."
        )
