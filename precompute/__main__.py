"""Command line: ``python -m precompute build | evaluate | sight | threshold | publish | ...``.

Nothing heavy is imported before a command runs. Bad input, or what the system refuses, ends in one
sentence and status 2, a stop by Ctrl-C or a signal in a sentence and the signal's status (130, or
143 for SIGTERM), anything unforeseen in a traceback and status 1.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from core.quiet import quiet_libraries
from precompute.calibrate import rerank_command, threshold_command
from precompute.evaluate import command as evaluate_command
from precompute.hub import publish

if TYPE_CHECKING:
    from precompute.build.pipeline import BuildResult

_LISTED = 20
_BAD_INPUT = 2
_INTERRUPTED = 130


class ProfileChoice(str, Enum):
    """Names of the profiles, known without importing them."""

    mini = "mini"
    full = "full"


class PoolingChoice(str, Enum):
    """Ways to index several captions of a picture (:data:`core.records.CaptionPooling`)."""

    mean = "mean"
    best = "best"


class Commands(TyperGroup):
    """All commands; an error that was foreseen becomes a sentence and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own context and result
        """Run the command that was asked for."""
        with _signals_interrupt(), _one_sentence("Stopped."):
            return super().invoke(ctx)


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


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images, imagefolder, saved or parquet dataset, Hugging Face id, or a "
            "benchmark: flickr8k, flickr30k, coco."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that the gallery will be.")],
    split: Annotated[
        str | None, typer.Option(help="Split of a dataset, or sub-folder of an imagefolder.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Configuration of a dataset that has several.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of a Hub dataset.")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column of the images; found by itself.")
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(
            help="Reference captions, kept for evaluation only: a column, captions.en for one of "
            "several texts, caption for caption_0, caption_1 ...; found by itself where its name "
            "is usual."
        ),
    ] = None,
    captions_from: Annotated[
        str | None,
        typer.Option(help="Use this column's captions instead of generating them; named likewise."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows or files read.")] = None,
    profile: Annotated[
        ProfileChoice | None,
        typer.Option(help="Set of models; TWOLENS_PROFILE, or mini.", show_default=False),
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of an InstructBLIP checkpoint, or of a LoRA adapter of one, in "
            "place of the profile's captioner; TWOLENS_CAPTIONER.",
            show_default=False,
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of an open_clip model in place of the profile's; TWOLENS_CLIP.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a model sees at once.")] = 8,
    shard_size: Annotated[int, typer.Option(min=1, help="Rows after which progress is kept.")] = 64,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N; TWOLENS_DEVICE, or auto."),
    ] = None,
    captions_per_image: Annotated[
        int, typer.Option(min=1, help="Most captions generated for a picture.")
    ] = 1,
    caption_pooling: Annotated[
        PoolingChoice,
        typer.Option(
            help="How several captions of a picture are searched: by their mean, or by the one "
            "nearest to the query."
        ),
    ] = PoolingChoice.mean,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the gallery once the new one is complete."),
    ] = False,
) -> None:
    """Build a gallery: captions, embeddings and indexes of a source's pictures.

    A build that was stopped, by whatever, goes on where it was: give the same command again.
    """
    with _one_sentence("Stopped. The same command goes on from the last finished shard."):
        from core.config import get_settings
        from core.models.choose_captioner import with_captioner
        from core.models.choose_clip import with_clip
        from core.models.profiles import PROFILES
        from precompute.build.pipeline import BuildOptions
        from precompute.build.pipeline import build as build_gallery
        from precompute.sources.presets import expand
        from precompute.sources.types import SourceOptions

        settings = get_settings()
        named = PROFILES[profile.value if profile else settings.profile]
        chosen = with_captioner(named, captioner or settings.captioner)
        chosen = with_clip(chosen, clip or settings.clip)
        remote = (spec.source.startswith("hub:") for spec in (chosen.captioner, chosen.clip))
        quiet_libraries(downloads=any(remote))
        options = BuildOptions(
            source=expand(
                SourceOptions(
                    source=source,
                    split=split,
                    subset=subset,
                    revision=revision,
                    image_column=image_column,
                    caption_column=caption_column,
                    captions_from=captions_from,
                    limit=limit,
                )
            ),
            out=out,
            profile=chosen,
            batch_size=batch_size,
            shard_size=shard_size,
            device=device or settings.device,
            captions_per_image=captions_per_image,
            caption_pooling=caption_pooling.value,
            overwrite=overwrite,
        )
        _show(build_gallery(options, settings=settings, say=_say), out)


@app.command()
def bench(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Photos for the timed build, and for the gallery if they have captions; "
            "photos of installed packages if not given."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures to this file.")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Gallery to search; one is made if not given.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=40, help="Pictures of the gallery that is made.")
    ] = 1000,
    queries: Annotated[int, typer.Option(min=10, help="Different queries that are timed.")] = 200,
    build_images: Annotated[
        int, typer.Option(min=1, help="Most pictures of the timed build.")
    ] = 48,
    profile: Annotated[
        ProfileChoice | None,
        typer.Option(help="Set of models; TWOLENS_PROFILE, or mini.", show_default=False),
    ] = None,
    under_load: Annotated[
        bool,
        typer.Option("--load", help="Measure instead visitors who search while others upload."),
    ] = False,
    evaluation: Annotated[
        bool,
        typer.Option(
            "--evaluation", help="Measure instead the evaluation of a made-up gallery of this size."
        ),
    ] = False,
    image_tower: Annotated[
        bool,
        typer.Option(
            "--image-tower", help="Measure instead the CLIP model's image tower on the CPU."
        ),
    ] = False,
) -> None:
    """Measure speed and memory of the running app and of a build, each beside its floor."""
    from core.config import get_settings
    from precompute.bench.app import bench as measure
    from precompute.bench.app import table, write_json
    from precompute.bench.material import BenchOptions

    settings = get_settings()
    name = profile.value if profile else settings.profile
    quiet_libraries(downloads=name == "full")
    options = BenchOptions(source, gallery, name, images, queries, build_images)
    if under_load:
        from precompute.bench.load import load

        result = load(options, _say)
    elif evaluation:
        from precompute.bench.evaluation import evaluation as measure_evaluation

        result = measure_evaluation(options, _say)
    elif image_tower:
        from precompute.bench.image_tower import image_tower as measure_tower

        result = measure_tower(options, settings, _say)
    else:
        result = measure(options, settings, _say)
    typer.echo(table(result))
    if json_file is not None:
        write_json(json_file, result)


def _show(result: BuildResult | None, out: Path) -> None:
    if result is None:
        typer.echo(f"{out} was complete already.")
        return
    _list("Skipped", [f"{item.file_name} {item.reason}" for item in result.skipped])
    _list("Stored once", [f"{d.file_name} is {d.same_as} again" for d in result.duplicates])
    _list("Noted", [f"{item.file_name}: {item.note}" for item in result.notes])
    if result.merged_rows:
        _say(f"{result.merged_rows:,} rows gave captions to pictures that earlier rows had named.")
    typer.echo(
        f"{out}: {result.images:,} images, {len(result.duplicates):,} duplicates, "
        f"{len(result.skipped):,} skipped; {result.images_per_second:.1f} images/s."
    )


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    _say(f"{title} ({len(lines):,}):")
    for line in lines[:_LISTED]:
        _say(f"  {line}")
    if len(lines) > _LISTED:
        _say(f"  and {len(lines) - _LISTED:,} more, all in build_report.json")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


@contextmanager
def _one_sentence(when_interrupted: str) -> Iterator[None]:
    """Turn errors raised on purpose, or by the system, into a sentence and an exit status."""
    from core.errors import REFUSALS, sentence_of

    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output has gone: click ends without a word
    except REFUSALS as error:
        _say(sentence_of(error))
        raise typer.Exit(_BAD_INPUT) from error
    except KeyboardInterrupt as interrupt:
        _say(when_interrupted)
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


app.command(name="evaluate")(evaluate_command.run)
app.command(name="sight")(rerank_command.run)
app.command(name="threshold")(threshold_command.run)
app.command(name="publish")(publish.run)


if __name__ == "__main__":
    sys.exit(app(prog_name="python -m precompute"))
