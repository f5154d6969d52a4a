"""Command line: ``python -m precompute build | evaluate | bench | publish | ...``.

Each command is a file of its room; nothing heavy is imported before one runs. How they end is said
in :mod:`precompute.terminal`.
"""

from __future__ import annotations

import sys

import typer

from precompute.bench import command as bench
from precompute.build import command as build
from precompute.calibrate import match_command, rerank_command, threshold_command
from precompute.evaluate import command as evaluate
from precompute.hub import command as publish
from precompute.terminal import Commands
from precompute.training_commands import finetune, mini

app = typer.Typer(
    cls=Commands,
    help="Jobs of TwoLens: build a gallery, measure it, train its models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(finetune, name="finetune")
app.add_typer(mini, name="mini")
app.add_typer(bench.app, name="bench")
app.add_typer(publish.app, name="publish")
app.command(name="build")(build.run)
app.command(name="evaluate")(evaluate.run)
app.command(name="match")(match_command.run)
app.command(name="rerank")(rerank_command.run)
app.command(name="threshold")(threshold_command.run)


if __name__ == "__main__":
    sys.exit(app(prog_name="python -m precompute"))
