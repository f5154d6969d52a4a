"""The command ``evaluate``: options in, ``metrics.json`` and a report out, or nothing at all."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.quiet import quiet_libraries

if TYPE_CHECKING:
    from core.gallery.figures.metrics_file import Metrics
    from core.gallery.reader import Gallery

_SHOWN = ("R@1", "R@5", "R@10", "MRR", "nDCG@10", "median_rank")


def run(
    gallery: Annotated[
        Path, typer.Argument(help="Gallery folder whose source had reference captions.")
    ],
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file too.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write report.md, charts and example pictures here.")
    ] = None,
    tune_on: Annotated[
        Path | None,
        typer.Option(
            help="Gallery with references on which the fusion is chosen; without it each half of "
            "the pictures chooses for the other half."
        ),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="TREC relevance labels: QUERY 0 PICTURE GRADE.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Texts of the labelled queries: QUERY<tab>TEXT.")
    ] = None,
    judgements: Annotated[
        Path | None,
        typer.Option(
            help="Folder with Flickr8k's ExpertAnnotations.txt and CrowdFlowerAnnotations.txt."
        ),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a BLIP or BLIP-2 retrieval checkpoint: measure CLIP with its "
            "first 20 pictures reranked too."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Set of models; the one that built the gallery.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of the open_clip model that built the gallery, if it was not "
            "the profile's; TWOLENS_CLIP."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N; TWOLENS_DEVICE, or auto.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    index_size: Annotated[
        int,
        typer.Option(
            min=0, help="Vectors of a made-up larger index, measured beside the gallery's; 0: none."
        ),
    ] = 20_000,
) -> None:
    """Measure both lenses, their fusion and two baselines on a gallery's reference captions.

    The figures go into the gallery's metrics.json, where the app reads them.
    """
    from core.config import get_settings
    from core.errors import SourceError
    from core.files import write_atomically
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES
    from precompute.evaluate.gallery_metrics import Plan, evaluate, profile_of
    from precompute.evaluate.report import write_report

    if profile is not None and profile not in PROFILES:
        raise SourceError(f"There is no profile {profile[:40]!r}; there are mini and full.")
    for target in (json, report):
        if target is not None and not Path(os.path.realpath(target)).parent.is_dir():
            raise SourceError(f"The folder that should hold {target} does not exist.")
    if json is not None and json.is_dir():
        raise SourceError(f"--json names a file, and {json} is a folder.")
    if report is not None and report.is_file():
        raise SourceError(f"--report names a folder, and {report} is a file.")
    plan = Plan(
        folder=gallery,
        profile="full" if profile == "full" else "mini" if profile else None,
        clip=clip or get_settings().clip,
        device=device or get_settings().device,
        tune_on=tune_on,
        qrels=qrels,
        queries=queries,
        judgements=judgements,
        rerank=rerank,
        seed=seed,
        synthetic_vectors=index_size,
        command=shlex.join(["python", "-m", "precompute", "evaluate", *typed_words(gallery)]),
    )
    quiet_libraries(downloads=profile_of(plan).clip.source.startswith("hub:"))
    metrics = evaluate(plan)
    # First of all: whatever cannot be written, the figures of a long run are there to be read.
    typer.echo(table(metrics))
    if json is not None:
        write_atomically(json, metrics.to_json().encode())
    if report is not None:
        write_report(report, metrics, _pictures(Gallery.open(gallery, profile_of(plan)), metrics))
    _keep(metrics, gallery)


def _keep(metrics: Metrics, gallery: Path) -> None:
    """Write the figures to where the app looks for them."""
    from core.errors import GalleryError
    from core.files import write_atomically
    from core.gallery.figures.metrics_file import METRICS_FILE

    try:
        write_atomically(gallery / METRICS_FILE, metrics.to_json().encode())
    except OSError as error:
        raise GalleryError(
            gallery,
            f"The figures above could not be written into {gallery} ({error.strerror}), where "
            "the app looks for them; --json FILE keeps them elsewhere.",
        ) from error


def typed_words(gallery: Path) -> list[str]:
    """Return the words after ``evaluate``, of each path its last part: the others are private."""
    words = sys.argv[1:]
    typed = words[words.index("evaluate") + 1 :] if "evaluate" in words else [str(gallery)]
    return [_without_folders(word) for word in typed]


def _without_folders(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if "/" in value or value in (".", ".."):
        value = os.path.basename(os.path.realpath(value)) or value
    return f"{option}{equals}{value}"


def _pictures(gallery: Gallery, metrics: Metrics) -> dict[str, bytes]:
    """Return the thumbnails of all pictures that the examples name."""
    ids = {
        image
        for example in metrics.solved_by_one
        for image in (example.image_id, example.shown_instead)
    }
    return {image: gallery.read_thumbnail(image) for image in sorted(ids)}


def table(metrics: Metrics) -> str:
    """Return the figures as lines of text, the interval of R@5 behind them."""
    width = max(10, *(len(lens) + 1 for lens in metrics.lenses))
    shown = [*_SHOWN[:4], *(["mAP"] if metrics.several_relevant else []), *_SHOWN[4:]]
    lines = [
        f"{metrics.gallery}: {metrics.images:,} images, {metrics.queries:,} queries "
        f"({metrics.provenance.query_origin})",
        " " * width + "".join(f"{name:>12}" for name in shown) + "   R@5 95 %",
    ]
    for lens, figures in metrics.lenses.items():
        values = figures.model_dump(by_alias=True)
        low, high = figures.ci95["R@5"]
        cells = [
            f"{values[name]:>12g}" if name == "median_rank" else f"{100 * values[name]:>12.1f}"
            for name in shown
        ]
        lines.append(f"{lens:<{width}}" + "".join(cells) + f"   {100 * low:.1f}-{100 * high:.1f}")
    lines.append(f"fused is {metrics.fusion.method}. {metrics.fusion.verdict}")
    if metrics.captions is not None:
        quality = metrics.captions
        cider = "not worked out" if quality.cider is None else f"{quality.cider:.2f}"
        lines.append(
            f"captions: BLEU-4 {quality.bleu_4:.1f}, CIDEr {cider}, CLIPScore "
            f"{quality.clip_score:.3f} ({quality.clip_model}), {quality.flagged:.1%} flagged, "
            f"{quality.distinct:.1%} distinct"
        )
    lines.append(
        "seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in metrics.seconds.items())
    )
    return "\n".join(lines)
