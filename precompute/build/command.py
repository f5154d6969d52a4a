"""The command ``build``: a source and options in, a gallery out."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.quiet import quiet_libraries
from precompute.build.index_command import IndexChoice, IndexOption, file_kinds
from precompute.terminal import ProfileChoice, ProfileOption, one_sentence, say, say_list

if TYPE_CHECKING:
    from precompute.build.pipeline import BuildResult

REPORT_FILE = "build_report.json"


class PoolingChoice(str, Enum):
    """Ways to index several captions of a picture (:data:`core.records.CaptionPooling`)."""

    mean = "mean"
    best = "best"


class ExecutorChoice(str, Enum):
    """Who makes the shards (:data:`precompute.build.plan.Executor`)."""

    local = "local"
    accelerate = "accelerate"
    ray = "ray"


def _list_presets(asked: bool) -> None:
    if asked:
        from precompute.sources.presets import PRESETS

        for each in PRESETS.values():
            typer.echo("\n".join(each.lines()))
        raise typer.Exit()


def run(
    out: Annotated[Path, typer.Option(help="Output folder.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="Folder of images, imagefolder, saved or parquet dataset, Hugging Face id, or the "
            "name of a preset.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A dataset by name, in place of SOURCE.", show_default=False)
    ] = None,
    list_presets: Annotated[
        bool,
        typer.Option(
            "--list-presets",
            help="List the presets and exit.",
            is_eager=True,
            callback=_list_presets,
        ),
    ] = False,
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
        str | None, typer.Option(help="Column of the images; not needed if there is one.")
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
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read at most this many rows or files.")
    ] = None,
    profile: ProfileOption = None,
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
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures in one batch: 8 on a CPU, 32 or more on a GPU, whichever it is fastest "
            "with. One that does not fit into memory is halved.",
            show_default=False,
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows between two checkpoints: 64, on a GPU 256.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N; TWOLENS_DEVICE, or auto."),
    ] = None,
    captions_per_image: Annotated[
        int, typer.Option(min=1, help="Generate up to this many captions for a picture.")
    ] = 1,
    caption_pooling: Annotated[
        PoolingChoice,
        typer.Option(
            help="How several captions of a picture are searched: by their mean, or by the one "
            "nearest to the query."
        ),
    ] = PoolingChoice.mean,
    large: Annotated[
        int,
        typer.Option(
            min=0,
            help="Keep a large copy (1,280 px; TWOLENS_LARGE_PX) of each picture if the source has "
            "at most so many; 0 keeps none.",
        ),
    ] = 2_000,
    read_text: Annotated[
        bool,
        typer.Option(
            "--read-text",
            help="Read the text in the pictures, as on signs, so that it can be searched; needs "
            "the packages of requirements-ocr.txt.",
        ),
    ] = False,
    index: IndexOption = IndexChoice.auto,
    executor: Annotated[
        ExecutorChoice,
        typer.Option(
            help="Who makes the shards: this process; the ranks of accelerate launch or torchrun; "
            "or a Ray cluster (requirements-ray.txt)."
        ),
    ] = ExecutorChoice.local,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the gallery once the new one is complete, reusing nothing of it.",
        ),
    ] = False,
) -> None:
    """Build a gallery: captions, embeddings and indexes of a source's pictures.

    An interrupted build resumes when the same command is given again. Where the gallery is
    complete, that command updates it: pictures that are still there keep their captions.
    """
    with one_sentence("Stopped. The same command resumes from the last finished shard."):
        from core.config import get_settings
        from core.errors import SourceError
        from core.models.choose import with_captioner, with_clip
        from core.models.profiles import PROFILES
        from precompute.build.executors.ranks import is_first_rank
        from precompute.build.pipeline import BuildOptions
        from precompute.build.pipeline import build as build_gallery
        from precompute.build.plan import sizes_for
        from precompute.sources.presets import expand
        from precompute.sources.presets import preset as preset_named
        from precompute.sources.types import SourceOptions

        if (source is None) == (preset is None):
            raise SourceError("Give either a SOURCE or --preset NAME; --list-presets names them.")
        settings = get_settings()
        named = PROFILES[profile.value if profile else settings.profile]
        chosen = with_captioner(named, captioner or settings.captioner)
        chosen = with_clip(chosen, clip or settings.clip)
        remote = (spec.source.startswith("hub:") for spec in (chosen.captioner, chosen.clip))
        quiet_libraries(downloads=any(remote))
        usual_batch, usual_shard = sizes_for(device or settings.device)
        options = BuildOptions(
            source=expand(
                SourceOptions(
                    source=source or preset_named(str(preset)).name,
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
            batch_size=batch_size or usual_batch,
            grow_batch=batch_size is None and executor is not ExecutorChoice.ray,
            shard_size=shard_size or usual_shard,
            device=device or settings.device,
            captions_per_image=captions_per_image,
            caption_pooling=caption_pooling.value,
            index=file_kinds(index),
            large_up_to=large,
            read_text=read_text,
            executor=executor.value,
            overwrite=overwrite,
        )
        result = build_gallery(options, settings=settings, say=say)
        if executor is ExecutorChoice.accelerate and not is_first_rank():
            return
        _show(result, out)
        typer.echo(f"To search it: {serve_command(out, profile, clip)}")


def serve_command(out: Path, profile: ProfileChoice | None, clip: str | None) -> str:
    """Return what serves a gallery with the models that built it, to be pasted into a shell.

    Args:
        out: The gallery.
        profile: As given to ``build``.
        clip: Likewise.
    """
    parts = ["python", "app.py", "--gallery", str(out)]
    if profile is not None:
        parts += ["--profile", profile.value]
    if clip is not None:
        parts += ["--clip", clip]
    return shlex.join(parts)


def _show(result: BuildResult | None, out: Path) -> None:
    if result is None:
        typer.echo(f"{out} was complete already.")
        return
    again = [f"{item.file_name} is {item.same_as} again" for item in result.duplicates]
    say_list("Skipped", [f"{item.file_name} {item.reason}" for item in result.skipped], REPORT_FILE)
    say_list("Stored once", again, REPORT_FILE)
    say_list("Noted", [f"{item.file_name}: {item.note}" for item in result.notes], REPORT_FILE)
    if result.merged_rows:
        say(f"{result.merged_rows:,} rows gave captions to pictures that earlier rows had named.")
    typer.echo(
        f"{out}: {result.images:,} images, {len(result.duplicates):,} duplicates, "
        f"{len(result.skipped):,} skipped; {result.images_per_second:.1f} images/s."
    )
