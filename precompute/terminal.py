"""What all commands share: options, sentences on the terminal, and how each of them ends.

Bad input, or what the system refuses, ends in one sentence and status 2; a stop by Ctrl-C or a
signal in a sentence and the signal's status (130, or 143 for SIGTERM); anything unforeseen in a
traceback and status 1.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_LISTED = 20
_BAD_INPUT = 2
_INTERRUPTED = 130


class ProfileChoice(str, Enum):
    """Names of the profiles, known without importing them."""

    mini = "mini"
    full = "full"


ProfileOption = Annotated[
    ProfileChoice | None,
    typer.Option(help="Set of models; TWOLENS_PROFILE, or mini.", show_default=False),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

# Of trainings.
DataOption = Annotated[str, typer.Option(help="Imagefolder or dataset id to train on.")]
OutOption = Annotated[Path, typer.Option(help="Folder for the model, its metrics and checkpoint.")]
SplitOption = Annotated[str | None, typer.Option(help="Split of --data.")]
ImageColumnOption = Annotated[
    str | None, typer.Option(help="Column of the images; not needed if there is one.")
]
CaptionColumnOption = Annotated[
    str | None, typer.Option(help="Column of the captions; not needed if its name is a usual one.")
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Train on this many images, the first.")
]
ValidationOption = Annotated[
    str | None, typer.Option(help="Imagefolder or dataset id to measure on.")
]
EpochsOption = Annotated[int | None, typer.Option(min=1)]
BatchSizeOption = Annotated[int | None, typer.Option(min=1)]
LearningRateOption = Annotated[float | None, typer.Option(min=0)]
PatienceOption = Annotated[
    int | None, typer.Option(min=1, help="Stop after so many epochs without a better score.")
]
SeedOption = Annotated[int | None, typer.Option(min=0)]


class Commands(TyperGroup):
    """All commands; an error that was foreseen becomes a sentence and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own context and result
        """Run the command that was asked for."""
        with _signals_interrupt(), one_sentence("Stopped."):
            return super().invoke(ctx)


def say(sentence: str) -> None:
    """Tell the operator something that is not the command's result."""
    typer.echo(sentence, err=True)


def say_list(title: str, lines: Sequence[str], where: str) -> None:
    """Say the first of many lines, and where all of them are.

    Args:
        title: What they are.
        lines: Nothing is printed if there are none.
        where: Name of the file that has all.
    """
    if not lines:
        return
    say(f"{title} ({len(lines):,}):")
    for line in lines[:_LISTED]:
        say(f"  {line}")
    if len(lines) > _LISTED:
        say(f"  and {len(lines) - _LISTED:,} more, all in {where}")


@contextmanager
def one_sentence(when_interrupted: str) -> Iterator[None]:
    """Turn errors raised on purpose, or by the system, into a sentence and an exit status."""
    from core.errors import REFUSALS, sentence_of

    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output has gone: click ends without a word
    except REFUSALS as error:
        say(sentence_of(error))
        raise typer.Exit(_BAD_INPUT) from error
    except KeyboardInterrupt as interrupt:
        say(when_interrupted)
        raise typer.Exit(getattr(interrupt, "status", _INTERRUPTED)) from None


class _SignalInterrupt(KeyboardInterrupt):
    """A request to stop by another way than Ctrl-C: work ends as it does then."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number
        super().__init__()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt, unless somebody else takes or ignores them."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise _SignalInterrupt(number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            each = getattr(signal, name, None)  # Windows has no SIGHUP
            if each is not None and signal.getsignal(each) is signal.SIG_DFL:
                signal.signal(each, interrupt)
                taken.append(each)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
