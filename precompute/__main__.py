"""Command line: ``python -m precompute build | evaluate | bench | publish | ...``.

Each command is a file of its room; nothing heavy is imported before one runs. How they end is said
in :mod:`precompute.terminal`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import typer

from precompute.terminal import Commands, commands

app = commands("Jobs of TwoLens: build a gallery, measure it, train its models.", Commands)


def _add(name: str, module: str, attribute: str = "run", group: typer.Typer = app) -> None:
    """Add a command, or a group of them; a Space leaves out the rooms that do not run there."""
    if not Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py").is_file():
        return
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group.add_typer(found, name=name)
    else:
        group.command(name=name)(found)


finetune = commands("Fine-tune a captioner (captions) or a CLIP model (contrastive).")
_add("captions", "precompute.finetune.captions.command", group=finetune)
_add("contrastive", "precompute.finetune.clip.command", group=finetune)
mini = commands(
    "Train the shipped captioner again (captioner), teach it words from texts without photos "
    "(words), and what names things for it (names)."
)
_add("captioner", "precompute.mini.command", "captioner", mini)
_add("names", "precompute.calibrate.names.command", group=mini)
_add("words", "precompute.mini.command", "words", mini)

for name, group in (("finetune", finetune), ("mini", mini)):
    if group.registered_commands:
        app.add_typer(group, name=name)
_add("bench", "precompute.bench.command", "app")
_add("publish", "precompute.hub.command", "app")
_add("build", "precompute.build.command")
_add("map", "precompute.build.map_command")
_add("doctor", "precompute.galleries.doctor")
_add("convert", "precompute.galleries.convert")
_add("index", "precompute.build.index_command")
_add("demo-gallery", "precompute.hub.demo_command")
_add("stamps", "precompute.sources.stamps_command")
_add("evaluate", "precompute.evaluate.command")
_add("hubs", "precompute.calibrate.hubs_command")
_add("match", "precompute.calibrate.match_command")
_add("composed", "precompute.calibrate.composed.command")
_add("rerank", "precompute.calibrate.rerank_command")
_add("threshold", "precompute.calibrate.threshold_command")
_add("votes", "precompute.evaluate.votes_command")


if __name__ == "__main__":
    sys.exit(app(prog_name="python -m precompute"))
