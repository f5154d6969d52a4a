"""The report's plots; the app draws its own from the same figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import MissingDependencyError
from core.gallery.metrics_file import LensName, MetricName, Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: dict[str, str] = {
    "captions": "#a53f14",
    "clip": "#0f5c8f",
    "fused": "#6b3a96",
    "bm25": "#8a8172",
    "random": "#c9c1b0",
    "synthetic": "#3f6b2f",
}
_HATCHES = {"clip": "///", "fused": "...", "bm25": "xx"}
_BARS: tuple[LensName, ...] = ("captions", "clip", "fused", "bm25", "random")
_BAR_METRICS: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")


def require_plots() -> None:
    """Raise MissingDependencyError unless matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "The report")


def draw_plots(folder: Path, metrics: Metrics) -> list[str]:
    """Draw recall, score distributions and index curves as PNG; return the files' names."""
    from matplotlib.figure import Figure

    recall = Figure(figsize=(8, 3.6), layout="constrained")
    _draw_recall(recall.subplots(), metrics)
    scores = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (lens, title) in zip(
        scores.subplots(1, 2), (("captions", "Caption lens"), ("clip", "CLIP lens")), strict=True
    ):
        _draw_scores(axes, metrics, lens, title)
    index = Figure(figsize=(8, 3.6), layout="constrained")
    _draw_index(index.subplots(), metrics)
    names = {"recall.png": recall, "scores.png": scores, "index.png": index}
    for name, figure in names.items():
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})
    return list(names)


def _draw_recall(axes: Axes, metrics: Metrics) -> None:
    lenses = [lens for lens in _BARS if lens in metrics.lenses]
    width = 0.8 / len(lenses)
    for position, lens in enumerate(lenses):
        figures = metrics.lenses[lens]
        values = [100 * (figures.value(metric) or 0) for metric in _BAR_METRICS]
        bounds = [figures.ci95[metric] for metric in _BAR_METRICS]
        axes.bar(
            [number + (position - (len(lenses) - 1) / 2) * width for number in range(len(values))],
            values,
            width,
            yerr=[
                [
                    max(0.0, value - 100 * low)
                    for value, (low, _) in zip(values, bounds, strict=True)
                ],
                [
                    max(0.0, 100 * high - value)
                    for value, (_, high) in zip(values, bounds, strict=True)
                ],
            ],
            color=_COLOURS[lens],
            hatch=_HATCHES.get(lens),
            edgecolor="white",
            label=lens,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.set_xticks(range(len(_BAR_METRICS)), _BAR_METRICS)
    axes.set_ylabel("percent")
    axes.set_title(
        f"{metrics.images:,} images, {metrics.queries:,} queries; 95 % intervals", loc="left"
    )
    axes.legend(
        frameon=False,
        ncols=len(lenses),
        fontsize=8,
        loc="lower center",
        bbox_to_anchor=(0.5, -0.28),
    )


def _draw_scores(axes: Axes, metrics: Metrics, lens: str, title: str) -> None:
    found = metrics.scores[lens]
    axes.stairs(
        found.wrong, found.edges, color="#8a8172", label="best wrong picture", linestyle="--"
    )
    axes.stairs(
        found.right, found.edges, color=_COLOURS[lens], label="right picture", fill=True, alpha=0.6
    )
    axes.set_title(title)
    axes.set_xlabel("score")
    axes.set_ylabel("share of queries")
    axes.legend(frameon=False, fontsize=8)


def _draw_index(axes: Axes, metrics: Metrics) -> None:
    for name, curve in metrics.index.items():
        flat, *ivf = curve.points
        axes.plot(
            [point.p50_ms for point in ivf],
            [point.recall for point in ivf],
            marker="o",
            color=_COLOURS[name],
            label=f"{name}: IVF over {curve.vectors:,}",
        )
        axes.plot(
            [flat.p50_ms],
            [flat.recall],
            marker="D",
            markersize=9,
            linestyle="none",
            color=_COLOURS[name],
            label=f"{name}: flat",
        )
    axes.set_xscale("log")
    axes.set_xlabel("p50 milliseconds a search")
    axes.set_ylabel("recall@10 of flat's results")
    axes.legend(frameon=False, fontsize=8)
