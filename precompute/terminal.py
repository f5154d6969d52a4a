"""What all commands share: options, sentences on the terminal, and how each of them ends.

Bad input, or what the system refuses, ends in one sentence and status 2; a stop by Ctrl-C or a
signal in a sentence and the signal's status (130, or 143 for SIGTERM); anything unforeseen in a
traceback and status 1.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

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


class CommandGroup(TyperGroup):
    """Some commands; their help is plain text that ends where the terminal does."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own
        """List each command with its whole first paragraph: typer's own list cuts it off."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            told = command.help if command is not None else None
            rows.append((name, " ".join((told or "").split("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(CommandGroup):
    """All commands; an error that was foreseen becomes a sentence and an exit status."""

    def main(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401 - as typer's own
        """Run a command line; one that is not understood ends in a sentence, as all else does."""
        try:
            done = super().main(*args, **{**extra, "standalone_mode": False})
        except TyperException as error:
            say(_usage(error))
            sys.exit(error.exit_code)
        if extra.get("standalone_mode", True):
            sys.exit(done)
        return done

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own context and result
        """Run the command that was asked for."""
        with _signals_interrupt(), one_sentence("Stopped."):
            return super().invoke(ctx)


def commands(help_text: str, group: type[TyperGroup] = CommandGroup) -> typer.Typer:
    """Return an empty group of commands, with what they are for and how they end."""
    return typer.Typer(
        cls=group,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def _usage(error: TyperException) -> str:
    """Return what is wrong with a command line, and where its options are listed."""
    told = error.format_message().strip().replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    if context is None or "\n" in told:  # the help itself, where a group is named and no command
        return told
    end = "" if told.endswith(("?", ".", ")")) else "."
    return f"{told}{end} See: {context.command_path} --help"


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
