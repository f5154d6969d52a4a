"""The command groups ``finetune`` and ``mini``, whose commands are imported when they are run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import typer

from precompute.terminal import CommandGroup, commands


class _Lazy(CommandGroup):
    """Imports the module of a command when it is asked for."""

    modules: ClassVar[Mapping[str, str]]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own context
        """Return the names without importing the modules."""
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - likewise
        """Import one module and turn its ``run`` into a command."""
        if cmd_name not in self.modules:
            return None
        module = importlib.import_module(self.modules[cmd_name])
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name=cmd_name)(module.run)
        return typer.main.get_command(single)


class _Finetune(_Lazy):
    modules = {
        "captions": "precompute.finetune.captions.command",
        "contrastive": "precompute.finetune.clip.command",
    }


class _Mini(_Lazy):
    modules = {
        "captioner": "precompute.mini.captioner_command",
        "names": "precompute.calibrate.names.command",
        "words": "precompute.mini.words_command",
    }


finetune = commands("Fine-tune a captioner (captions) or a CLIP model (contrastive).", _Finetune)
mini = commands(
    "Train the shipped captioner again (captioner), teach it words from texts without photos "
    "(words), and what names things for it (names).",
    _Mini,
)


@finetune.callback()
@mini.callback()
def _group() -> None:
    """Exists because a group without commands of its own needs a callback."""
