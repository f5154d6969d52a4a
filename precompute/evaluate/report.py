"""The report of an evaluation: markdown, charts, and the pictures of its examples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.files import fsync
from core.gallery.figures.metrics_charts import (
    CHART_METRICS,
    LENS_NAMES,
    curve_name,
    index_chart,
    percent,
    recall_chart,
    score_chart,
    share,
)
from core.gallery.figures.metrics_file import MetricName, Metrics, SolvedByOne
from core.gallery.figures.written_kinds import KIND_NAMES, TEST_NAMES
from precompute.sources.benchmarks import BENCHMARKS, PUBLISHED
from precompute.sources.presets import PRESETS, preset_of

REPORT_FILE = "report.md"
_EXAMPLES_EACH = 5


def write_report(folder: Path, metrics: Metrics, pictures: Mapping[str, bytes]) -> None:
    """Write ``report.md``, its charts and example pictures; an old report is replaced whole.

    Args:
        folder: Where; its parent exists.
        metrics: What was measured.
        pictures: Thumbnail of each picture that the examples name, by id.
    """
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".report-") as made:
        new = Path(made)
        for file_name, (_, drawn) in _charts(metrics).items():
            (new / file_name).write_text(drawn, encoding="utf-8")
        shown = _examples_shown(metrics)
        for image_id in dict.fromkeys(
            image for example in shown for image in (example.image_id, example.shown_instead)
        ):
            (new / f"{image_id}.webp").write_bytes(pictures[image_id])
        (new / REPORT_FILE).write_text(markdown(metrics), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for path in sorted(new.iterdir(), key=lambda path: path.name == REPORT_FILE):
            path.replace(folder / path.name)
        fsync(folder)


def markdown(metrics: Metrics) -> str:
    """Return the report's text, which names charts and pictures that lie beside it."""
    parts = [
        f"# How well both lenses find pictures: {metrics.gallery}",
        _what_was_measured(metrics),
        "## Text to image",
        _figures_table(metrics),
        *_charts_table(metrics, "recall"),
        f"**Fusion.** {metrics.fusion.method}, chosen on {metrics.fusion.tuned_on}. "
        f"{metrics.fusion.verdict} MRR of the best settings where they were tuned: "
        + "; ".join(f"{name}: {mrr:.3f}" for name, mrr in metrics.fusion.tuning_mrr.items())
        + ".",
        "### Paired tests",
        _tests_table(metrics),
        *_captions(metrics),
        "## Where the lenses differ",
        _groups_table(metrics),
        *_kinds_table(metrics),
        *_charts_table(metrics, "score"),
        *_examples(metrics),
        "## Flat against IVF",
        _index_tables(metrics),
        *_charts_table(metrics, "index"),
        "## Published figures",
        _published(metrics),
        "## How to read this",
        "\n".join(f"- {note}" for note in metrics.notes),
        _provenance(metrics),
    ]
    return "\n\n".join(parts) + "\n"


def _charts(metrics: Metrics) -> dict[str, tuple[str, str]]:
    """Return title and SVG of each chart by the name of its file."""
    charts: dict[str, tuple[str, str]] = {
        f"recall-{metric.replace('@', '-at-').lower()}.svg": (metric, recall_chart(metrics, metric))
        for metric in CHART_METRICS
    }
    for lens in ("captions", "clip"):
        if lens in metrics.scores:
            drawn = score_chart(lens, metrics.scores[lens])
            charts[f"scores-{lens}.svg"] = (LENS_NAMES[lens], drawn)
    for name, curve in metrics.index.items():
        title = f"{curve_name(name)}, {curve.vectors:,} vectors"
        charts[f"index-{name}.svg"] = (title, index_chart(name, curve))
    return charts


def _charts_table(metrics: Metrics, kind: str) -> list[str]:
    """Return a table with the charts of one kind beside each other, none if there are none."""
    found = {name: title for name, (title, _) in _charts(metrics).items() if name.startswith(kind)}
    shown = [f"![{title}]({name})" for name, title in found.items()]
    return [_table(list(found.values()), [shown])] if found else []


def _cell(text: str) -> str:
    """Keep text that a model or a person wrote from breaking the table, or becoming HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\|`*_[]!":
        plain = plain.replace(character, f"\\{character}")
    return plain


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _what_was_measured(metrics: Metrics) -> str:
    found = metrics.provenance
    split = f", split {found.split}" if found.split else ""
    models = "; ".join(
        f"{role} {model.name} ({model.revision}, {model.precision})"
        for role, model in found.models.items()
    )
    return (
        f"{metrics.images:,} images, {metrics.queries:,} queries ({found.query_origin}); "
        f"{_cell(found.source)}{split}; captions: {found.caption_origin}. Models: {models}. "
        f"Seed {found.seed}. {found.machine}.\n\n```\n{found.command}\n```"
    )


def _figures_table(metrics: Metrics) -> str:
    names: list[MetricName] = ["R@1", "R@5", "R@10", "MRR"]
    names += ["mAP"] if metrics.several_relevant else []
    names += ["nDCG@10", "median_rank"]
    rows = []
    for lens, figures in metrics.lenses.items():
        row = [LENS_NAMES[lens]]
        for name in names:
            value, (low, high) = figures.value(name), figures.ci95[name]
            row.append(
                f"{value:g} ({low:.0f} to {high:.0f})"
                if name == "median_rank"
                else f"{percent(value)} ({percent(low)} to {percent(high)})"
            )
        rows.append(row)
    return (
        f"{_table(['', *names], rows)}\n\nPercent, with 95 % intervals from "
        f"{metrics.provenance.resamples:,} bootstrap samples of pictures."
    )


def _tests_table(metrics: Metrics) -> str:
    rows = [
        [
            f"{LENS_NAMES[test.first]} minus {LENS_NAMES[test.second]}",
            test.metric,
            f"{100 * test.difference:+.2f}",
            f"{test.p_value:.4f}",
        ]
        for test in metrics.tests
    ]
    return (
        f"{_table(['', 'metric', 'difference', 'p'], rows)}\n\nTwo-sided paired randomisation, "
        f"{metrics.provenance.flips:,} flips of whole pictures."
    )


def _captions(metrics: Metrics) -> list[str]:
    quality = metrics.captions
    if quality is None:
        return []
    row = [
        f"{quality.bleu_4:.1f}",
        "-" if quality.cider is None else f"{quality.cider:.3f}",
        f"{quality.clip_score:.3f}",
        f"{quality.flagged:.1%}",
        f"{quality.distinct:.1%}",
    ]
    return [
        "## The captions themselves",
        _table(["BLEU-4", "CIDEr-D", "CLIPScore", "flagged", "distinct"], [row])
        + f"\n\n{quality.images:,} captions against their references. CLIPScore by "
        f"{quality.clip_model}; it does not compare with that of another CLIP.",
    ]


def _groups_table(metrics: Metrics) -> str:
    rows = [
        [
            group.name,
            f"{group.queries:,}",
            *(share(group.r_at_5[lens], group.queries) for lens in ("captions", "clip", "fused")),
            share(group.only_captions, group.queries),
            share(group.only_clip, group.queries),
            percent(group.overlap_at_10),
        ]
        for group in metrics.groups
    ]
    head = ["queries with", "count", "R@5 captions", "R@5 CLIP", "R@5 fused"]
    head += ["only captions", "only CLIP", "overlap@10"]
    return (
        f"{_table(head, rows)}\n\nSolved: a right picture among the first five. Counts, colours, "
        "actions and negation are found by word lists, so they are approximate."
    )


def _kinds_table(metrics: Metrics) -> list[str]:
    if not metrics.kinds:
        return []
    lenses = list(metrics.kinds[0].right)
    rows = [
        [
            KIND_NAMES[each.kind],
            TEST_NAMES[each.test],
            *(f"{each.right[lens]} of {each.queries}" for lens in lenses),
            f"{each.chance:.1f}",
        ]
        for each in metrics.kinds
    ]
    head = ["queries about", "right is", *(LENS_NAMES[lens] for lens in lenses), "by chance"]
    return ["### Queries that were written for these pictures", _table(head, rows)]


def _examples_shown(metrics: Metrics) -> list[SolvedByOne]:
    return [
        example
        for winner in ("captions", "clip")
        for example in [each for each in metrics.solved_by_one if each.winner == winner][
            :_EXAMPLES_EACH
        ]
    ]


def _examples(metrics: Metrics) -> list[str]:
    parts = []
    for winner, title in (("captions", "Only the caption lens"), ("clip", "Only the CLIP lens")):
        rows = [
            [
                _cell(example.query),
                f"![]({example.image_id}.webp)<br>{_cell(example.caption)}",
                f"captions {example.captions_rank}, CLIP {example.clip_rank}",
                f"![]({example.shown_instead}.webp)<br>{_cell(example.shown_caption)}",
            ]
            for example in _examples_shown(metrics)
            if example.winner == winner
        ]
        head = ["query", "the right picture", "its rank", "what the other lens has first"]
        parts += [f"### {title} solves", _table(head, rows) if rows else "No query."]
    return parts


def _index_tables(metrics: Metrics) -> str:
    parts = []
    for name, curve in metrics.index.items():
        made = " (made from the gallery's own)" if name == "synthetic" else ""
        rows = [
            [
                "flat" if point.kind == "flat" else f"IVF, nprobe {point.nprobe}",
                f"{point.recall:.3f}",
                f"{point.p50_ms:.3f}",
                f"{point.p95_ms:.3f}",
                f"{point.bytes_per_vector:,.0f}",
            ]
            for point in curve.points
        ]
        head = ["index", "recall@10 of flat", "p50 ms", "p95 ms", "bytes a vector"]
        parts.append(
            f"**{name}**: {curve.vectors:,} vectors{made} of {curve.dim}, {curve.nlist} clusters, "
            f"{curve.queries:,} queries one at a time.\n\n{_table(head, rows)}"
        )
    return "\n\n".join(parts)


def _published(metrics: Metrics) -> str:
    found = metrics.provenance
    same = preset_of(found.source.partition(" at ")[0], found.split or None)
    same = same if same and same.name in BENCHMARKS else None
    rows = [
        [
            PRESETS[each.benchmark].title,
            each.model,
            " / ".join("-" if value is None else f"{value:.1f}" for value in each.recall),
            each.source,
        ]
        for each in PUBLISHED
        if same is None or each.benchmark == same.name
    ]
    if same is None:
        note = (
            "Not the pictures measured above: these are the standard benchmarks, for the scale of "
            "things only. `python -m precompute build NAME` reads them: "
            + "; ".join(f"{name} is {PRESETS[name].dataset}" for name in BENCHMARKS)
            + "."
        )
    else:
        note = f"On the same pictures and queries as above ({same.title})."
    return f"{_table(['benchmark', 'model', 'R@1 / R@5 / R@10', 'source'], rows)}\n\n{note}"


def _provenance(metrics: Metrics) -> str:
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in metrics.seconds.items())
    return (
        f"Measured with {metrics.provenance.program}. Manifest "
        f"{metrics.provenance.manifest_sha256[:16]}. Seconds: {seconds}."
    )
