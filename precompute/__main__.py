"""Command line: ``python -m precompute build | evaluate | bench | publish | ...``.

Each command is a file of its room; nothing heavy is imported before one runs. How they end is said
in :mod:`precompute.terminal`.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from precompute.bench import command as bench
from precompute.build import command as build
from precompute.calibrate import rerank_command, threshold_command
from precompute.evaluate import command as evaluate
from precompute.hub import publish
from precompute.terminal import Commands


class FinetuneCommands(TyperGroup):
    """The training commands, each imported when it is asked for."""

    _modules = {
        "distil": "precompute.mini.distil_command",
        "contrastive": "precompute.finetune.clip.command",
        "captions": "precompute.finetune.captions.command",
    }

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own context
        """Return the names without importing the modules."""
        return list(self._modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - likewise
        """Import one training module and turn its ``run`` into a command."""
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(self._modules[cmd_name])
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name=cmd_name)(module.run)
        return typer.main.get_command(single)


app = typer.Typer(
    cls=Commands,
    help="Jobs of TwoLens: build a gallery, measure it, train its models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
finetune = typer.Typer(
    cls=FinetuneCommands,
    help="Train an image tower (distil), a CLIP model (contrastive) or a captioner (captions).",
    no_args_is_help=True,
)


@finetune.callback()
def _finetune() -> None:
    """Exists because a group without commands of its own needs a callback."""


app.add_typer(finetune, name="finetune")
app.add_typer(bench.app, name="bench")
app.command(name="build")(build.run)
app.command(name="evaluate")(evaluate.run)
app.command(name="sight")(rerank_command.run)
app.command(name="threshold")(threshold_command.run)
app.command(name="publish")(publish.run)


if __name__ == "__main__":
    sys.exit(app(prog_name="python -m precompute"))
