"""The card of a gallery's dataset: what it is, how good it is, and what must be said of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from core.gallery.figures.metrics_charts import LENS_NAMES
from core.gallery.figures.metrics_file import METRICS_FILE, Metrics
from core.gallery.folder import GalleryFolder
from core.gallery.hub_copy import HUB_PREFIX, VIEWER_FOLDER
from core.gallery.manifest import Manifest, ModelRef
from core.records import ImageRecord, values_of
from precompute.sources.presets import preset_of

_MOST_CREDITS = 200
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(
    held: GalleryFolder,
    manifest_bytes: bytes,
    manifest: Manifest,
    records: Sequence[ImageRecord],
    repository: str,
) -> str:
    """Return the card: the viewer's front matter, models, figures, licences and credits.

    Args:
        held: The gallery's folder.
        manifest_bytes: Of its manifest's file.
        manifest: The same, parsed.
        records: The pictures.
        repository: ``OWNER/NAME``.
    """
    metrics = _metrics(held, hashlib.sha256(manifest_bytes).hexdigest())
    parts = [
        _front_matter(manifest, len(records)),
        f"# {manifest.name}",
        f"A gallery of [TwoLens]: {len(records):,} pictures with generated captions, embeddings of "
        "captions and pictures, and FAISS indexes, to be searched by words in two ways side by "
        "side.\n\n[TwoLens]: https://huggingface.co/spaces?search=twolens",
        "```\npython app.py --gallery " + f"{HUB_PREFIX}{repository}"
        f"{'' if manifest.profile == 'mini' else ' --profile ' + manifest.profile}\n```",
        *_queries(manifest),
        "## Pictures",
        _source(manifest),
        "## Models",
        "\n".join(_models(manifest)),
        *_figures(metrics),
        "## Licences and credits",
        "\n".join(_credits(records)),
        "## Files",
        f"`{VIEWER_FOLDER}/*.parquet` hold the records with their thumbnails; `captions.npy` and "
        "`clip.npy` float32 embeddings of unit norm, in the order of the records; `*.faiss` "
        "the indexes; `manifest.json` the sha256 of every file, which the app checks before use. "
        "Full-size pictures are not part of it.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Manifest, count: int) -> str:
    size = next((name for most, name in _SIZES if count < most), "n>1M")
    models = [
        ref.source.removeprefix("hub:")
        for ref in (manifest.captioner, manifest.sentence, manifest.clip)
        if ref is not None and ref.source.startswith("hub:")
    ]
    lines = [
        "---",
        f"pretty_name: {json.dumps(manifest.name, ensure_ascii=False)}",
        "license: other",
        "license_name: see-card",
        "task_categories: [text-to-image, image-to-text]",
        "tags: [twolens, image-retrieval, clip, image-captions]",
        f"size_categories: [{json.dumps(size)}]",
        *([f"source_datasets: [{json.dumps(manifest.source.id)}]"] if _is_hub(manifest) else []),
        *([f"models: {json.dumps(models)}"] if models else []),
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {VIEWER_FOLDER}/train-*",
        "---",
    ]
    return "\n".join(lines)


def _is_hub(manifest: Manifest) -> bool:
    return manifest.source.kind == "dataset" and "/" in manifest.source.id


def _queries(manifest: Manifest) -> Iterator[str]:
    preset = preset_of(manifest.source.id, manifest.source.split)
    if preset is not None:
        yield f"{preset.why} Try: {' · '.join(preset.queries)}."


def _source(manifest: Manifest) -> str:
    source = manifest.source
    named = f"`{source.id}`" if not _is_hub(manifest) else f"the dataset `{source.id}`"
    details = [
        f"{title} `{value}`"
        for title, value in (
            ("split", source.split),
            ("commit", source.revision),
            ("captions given in", source.caption_column),
        )
        if value
    ]
    first = f" The first {source.limit:,} were read." if source.limit else ""
    return (
        f"From {named}{', ' if details else ''}{', '.join(details)}.{first} "
        f"{manifest.counts.duplicates:,} files were the same as others and "
        f"{manifest.counts.skipped:,} could not be used: see `build_report.json`."
    )


def _models(manifest: Manifest) -> Iterator[str]:
    yield "| part | model | revision | precision | licence |"
    yield "|---|---|---|---|---|"
    notes = []
    for part, ref in (
        ("captions", manifest.captioner),
        ("embeddings of captions", manifest.sentence),
        ("embeddings of pictures", manifest.clip),
    ):
        if ref is None:
            yield f"| {part} | given by the source ({_cell(manifest.caption_origin)}) | | | |"
            continue
        yield (
            f"| {part} | {_cell(ref.name)} (`{_cell(ref.source)}`) | `{ref.revision}` | "
            f"{ref.precision} | {_cell(ref.licence)} |"
        )
        notes += _note(ref)
    yield f"\nBuilt {manifest.created_at:%Y-%m-%d} with the profile `{manifest.profile}`."
    yield from dict.fromkeys(notes)


def _note(ref: ModelRef) -> list[str]:
    return [f"{ref.name}: {ref.note}"] if ref.note else []


def _figures(metrics: Metrics | None) -> Iterator[str]:
    yield "## Figures"
    if metrics is None:
        yield "Not measured: the pictures brought no captions, or `evaluate` was not run."
        return
    rows = ["| text to image, % | R@1 | R@5 | R@10 |", "|---|---|---|---|"]
    for name, figures in metrics.lenses.items():
        values = (figures.r_at_1, figures.r_at_5, figures.r_at_10)
        cells = " | ".join(f"{100 * value:.1f}" for value in values)
        rows.append(f"| {LENS_NAMES[name]} | {cells} |")
    yield "\n".join(rows)
    first = next(iter(metrics.lenses.values()))
    yield (
        f"{first.queries:,} queries over {first.images:,} pictures; intervals, tests and examples "
        f"are in `{METRICS_FILE}`. MiniLM, which embeds the captions, learnt from captions of COCO "
        "and Flickr30k, and InstructBLIP from COCO's: figures on these flatter the caption lens."
    )


def _metrics(held: GalleryFolder, manifest_sha256: str) -> Metrics | None:
    try:
        content = held.read(METRICS_FILE).tobytes()
        metrics = Metrics.model_validate_json(content)
    except (FileNotFoundError, ValueError):
        return None
    return metrics if metrics.provenance.manifest_sha256 == manifest_sha256 else None


def _credits(records: Sequence[ImageRecord]) -> Iterator[str]:
    licences = Counter(given or "not stated" for given in values_of(records, "license"))
    yield "The pictures are their owners'. As the source states it:\n"
    for licence, count in licences.most_common():
        yield f"- {_cell(licence)}: {count:,} pictures"
    named = [row for row, url in enumerate(values_of(records, "source_url")) if url]
    if named:
        yield (
            f"\nThe page of each of {len(named):,} pictures is in the column `source_url`"
            + (", the first of them:\n" if len(named) > _MOST_CREDITS else ":\n")
        )
    for record in map(records.__getitem__, named[:_MOST_CREDITS]):
        licence = f" ({_cell(record.license)})" if record.license else ""
        yield f"- {_cell(record.file_name)}: {_cell(str(record.source_url))}{licence}"


def _cell(text: str) -> str:
    """Return untrusted text, escaped for a table or a list in Markdown."""
    shown = " ".join(text.split())[:300]
    for mark in "\\`*_[]<>|#":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
