"""The charts of ``metrics.json`` as SVG, for the page and for a report's files alike.

Each is a whole ``<svg>`` that reads well as a file of its own. Colours are attributes, which any
stylesheet overrides: the page sets ``color`` for each lens and hides ``.paper``, the ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from core.gallery.figures.metrics_file import (
    Histogram,
    IndexCurve,
    LensName,
    MetricName,
    Metrics,
    QueryGroup,
)

CHART_METRICS: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")
LENS_NAMES: dict[LensName, str] = {
    "captions": "Caption lens",
    "clip": "CLIP lens",
    "clip_corrected": "CLIP lens, hubs corrected",
    "clip_reranked": "CLIP lens, first 20 reranked",
    "fused": "Best of both",
    "fused_rrf": "Joined by rank",
    "fused_sum": "Joined by score",
    "rrf_60": "Joined by rank, untuned",
    "text": "Text in the pictures alone",
    "fused_text": "Best of both, with text",
    "captions_first": "Caption lens, first caption alone",
    "captions_mean": "Caption lens, mean of the captions",
    "captions_best": "Caption lens, best of the captions",
    "bm25": "Shared words only",
    "random": "Chance",
}

ENOUGH = 50
"""Queries or pictures of which a share is told in percent."""

_CHART_LENSES: tuple[LensName, ...] = ("captions", "clip", "fused", "bm25", "random")
_GROUP_LENSES: tuple[LensName, ...] = ("captions", "clip", "fused")
_SOFT = "#5d564a"
_COLOURS = {"captions": "#a53f14", "clip": "#0f5c8f", "fused": "#6b3a96", "synthetic": "#1e1b16"}

_WIDTH, _HEIGHT = 360, 238
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 64
_BAR_LEFT, _BAR_WIDTH, _BAR_ROW = 150, 230, 25


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal, without the sign; "" for None."""
    return "" if value is None else f"{100 * value:.1f}"


def share(value: float | None, of: int) -> str:
    """Return a share of so many: of few as a count, ``"11 of 12"``, else ``"91.7 %"``; "" for None.

    A decimal of a percent of twelve queries would say more than was measured.
    """
    if value is None:
        return ""
    return f"{round(value * of)} of {of}" if of < ENOUGH else f"{percent(value)} %"


def curve_name(name: str) -> str:
    """Return what an index curve is called, from its key in ``Metrics.index``."""
    names = {"captions": "Caption lens", "clip": "CLIP lens"}
    return names.get(name, "A larger index, made from this gallery's")


def recall_chart(metrics: Metrics, metric: MetricName) -> str:
    """Return a bar for each lens and baseline, its 95 % interval as a whisker.

    Args:
        metrics: The figures.
        metric: One of ``CHART_METRICS``.
    """
    rows: list[str] = []
    label: list[str] = []
    for lens in _CHART_LENSES:
        figures = metrics.lenses.get(lens)
        if figures is None:
            continue
        value, (low, high) = figures.value(metric) or 0.0, figures.ci95[metric]
        told = f"{percent(value)} percent, {percent(low)} to {percent(high)}"
        shown = percent(value)
        if figures.queries < ENOUGH:
            counted = metric.startswith("R@")
            told = share(value, figures.queries) if counted else f"{100 * value:.0f} percent"
            shown = told.replace(" of ", "/") if counted else f"{100 * value:.0f}"
        rows.append(_bar(lens, _BAR_ROW * len(rows) + 4, value, (low, high), shown))
        label.append(f"{LENS_NAMES[lens]} {told}")
    width, height = _BAR_LEFT + _BAR_WIDTH + 50, _BAR_ROW * len(rows)
    return _svg("bars", width, height, f"{metric}: {'; '.join(label)}.", "".join(rows), size=14)


def _bar(lens: LensName, top: int, value: float, interval: tuple[float, float], shown: str) -> str:
    low, high = interval
    length, middle = _BAR_WIDTH * value, top + 8
    left, right = _BAR_LEFT + _BAR_WIDTH * low, _BAR_LEFT + _BAR_WIDTH * max(low, high)
    # Stripes tell the CLIP lens apart where colours look alike.
    stripes = f'<path class="stripes" stroke="#fff" stroke-opacity="0.35" stroke-width="16" \
stroke-dasharray="3 7" d="M{_BAR_LEFT + 7} {middle}h{max(0.0, length - 7):.1f}"/>'
    return (
        f'<g class="{lens}" color="{_COLOURS.get(lens, _SOFT)}">'
        f'<text class="name" x="0" y="{top + 13}" fill="currentColor">{LENS_NAMES[lens]}</text>'
        f'<rect class="track" x="{_BAR_LEFT}" y="{top}" width="{_BAR_WIDTH}" height="16" rx="4" '
        f'fill="#eeeadf"/><rect class="bar" x="{_BAR_LEFT}" y="{top}" width="{length:.1f}" '
        f'height="16" rx="4" fill="currentColor"/>{stripes if lens == "clip" else ""}'
        f'<path class="whisker" fill="none" stroke="#1e1b16" stroke-width="1.5" '
        f'd="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 5}v10M{right:.1f} {middle - 5}'
        f'v10"/><text x="{_BAR_LEFT + _BAR_WIDTH + 48}" y="{top + 13}" fill="{_SOFT}" '
        f'text-anchor="end">{shown}</text></g>'
    )


def group_chart(group: QueryGroup) -> str:
    """Return R@5 of a kind of query for three lenses on one line; a table says the numbers."""
    marks = "".join(
        _mark(lens, 4 + 152 * group.r_at_5[lens], 11)
        for lens in _GROUP_LENSES
        if lens in group.r_at_5
    )
    return (
        '<svg class="chart" viewBox="0 0 160 22" width="160" height="22" aria-hidden="true" '
        f'focusable="false"><path class="axis" stroke="{_SOFT}" d="M4 11H156"/>{marks}</svg>'
    )


def _mark(lens: LensName, x: float, y: float) -> str:
    """Return a lens's mark: a disc, a diamond or a ring, so that colour never stands alone."""
    about = f'class="{lens}" color="{_COLOURS[lens]}"'
    if lens == "clip":
        return f'<path {about} fill="currentColor" d="M{x - 6:.1f} {y}l6-6l6 6l-6 6z"/>'
    ring = 'fill="none" stroke="currentColor" stroke-width="2.5"'
    how = ring if lens == "fused" else 'fill="currentColor"'
    return f'<circle {about} {how} cx="{x:.1f}" cy="{y}" r="5"/>'


def score_chart(lens: LensName, found: Histogram) -> str:
    """Return the scores of right pictures and of the best wrong ones, as two outlines."""
    highest = max([*found.right, *found.wrong, 1e-9])
    low, high = found.edges[0], found.edges[-1]

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / highest * (_HEIGHT - _TOP - _BOTTOM)

    def outline(values: Sequence[float]) -> str:
        steps = "".join(
            f"V{y(value):.1f}H{x(edge):.1f}"
            for value, edge in zip(values, found.edges[1:], strict=True)
        )
        return f"M{x(low):.1f} {y(0):.1f}{steps}V{y(0):.1f}"

    right = sum(a * b for a, b in zip(found.right, _middles(found.edges), strict=True))
    wrong = sum(a * b for a, b in zip(found.wrong, _middles(found.edges), strict=True))
    label = (
        f"{LENS_NAMES[lens]}: right pictures score {right:.2f} on average, "
        f"the best wrong ones {wrong:.2f}."
    )
    solid = 'fill="currentColor" fill-opacity="0.4" stroke="currentColor" stroke-width="2"'
    dashed = f'fill="none" stroke="{_SOFT}" stroke-width="2" stroke-dasharray="5 4"'
    drawn = (
        f'<path class="right" {solid} d="{outline(found.right)}"/>'
        f'<path class="wrong" {dashed} d="{outline(found.wrong)}"/>'
        f'<path class="axis" stroke="{_SOFT}" d="M{_LEFT} {y(0):.1f}H{_WIDTH - _RIGHT}"/>'
        + _below([(x(value), f"{value:.1f}") for value in _ticks(low, high)], "score")
        + _key(f'<path class="right" {solid} d="M0 1V-7h16V1"/>', "the right picture", _LEFT)
        + _key(f'<path class="wrong" {dashed} d="M0-3h18"/>', "the best wrong one", 200)
    )
    return _svg(lens, _WIDTH, _HEIGHT, label, drawn)


def index_chart(name: str, curve: IndexCurve) -> str:
    """Return recall against median latency on a logarithmic scale, flat marked apart.

    Args:
        name: Its key in ``Metrics.index``.
        curve: Flat first, then IVF.
    """
    flat, *ivf = curve.points
    times = [max(point.p50_ms, 1e-3) for point in curve.points]
    low, high = math.log10(min(times)) - 0.08, math.log10(max(times)) + 0.08
    lowest = min(0.5, *(point.recall for point in curve.points)) if ivf else 0.5
    lowest = math.floor(10 * lowest) / 10

    def x(ms: float) -> float:
        share = (math.log10(max(ms, 1e-3)) - low) / (high - low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(recall: float) -> float:
        share = (recall - lowest) / (1.02 - lowest)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    line = "M" + "L".join(f"{x(point.p50_ms):.1f} {y(point.recall):.1f}" for point in ivf)
    ring = 'class="dot" fill="#fff" stroke="currentColor" stroke-width="2.5" r="4.5"'
    dots = "".join(
        f'<circle {ring} cx="{x(point.p50_ms):.1f}" cy="{y(point.recall):.1f}">'
        f"<title>IVF, nprobe {point.nprobe}: {point.recall:.1%} in {point.p50_ms:.3g} ms</title>"
        "</circle>"
        for point in ivf
    )
    grid = "".join(
        f'<path class="grid" stroke="#d9d2c2" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="{_SOFT}">'
        f"{value:.0%}</text>"
        for value in _recall_ticks(lowest)
    )
    label = "; ".join(
        f"{'flat' if p.kind == 'flat' else f'IVF nprobe {p.nprobe}'}: {p.recall:.0%} in "
        f"{p.p50_ms:.3g} ms"
        for p in curve.points
    )
    diamond = 'class="flat" fill="currentColor"'
    drawn = (
        f'{grid}<path class="line" fill="none" stroke="currentColor" stroke-width="2" d="{line}"/>'
        f"{dots}<path {diamond} d="
        f'"M{x(flat.p50_ms) - 7:.1f} {y(flat.recall):.1f}l7-7l7 7l-7 7z"><title>flat: '
        f"{flat.p50_ms:.3g} ms</title></path>"
        + _below(
            [(x(value), f"{value:g}") for value in _log_ticks(low, high)],
            "milliseconds a search (median)",
        )
        + _key(f'<path {diamond} d="M2-4l7-7l7 7l-7 7z"/>', "flat", _LEFT)
        + _key(f'<g transform="translate(9-4)"><circle {ring}/></g>', "IVF by rising nprobe", 140)
    )
    return _svg(escape(name), _WIDTH, _HEIGHT, label, drawn)


def _svg(name: str, width: int, height: int, label: str, drawn: str, *, size: int = 12) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart {name}" role="img" '
        f'aria-label="{escape(label)}" viewBox="0 0 {width} {height}" font-size="{size}" '
        f'font-family="sans-serif" color="{_COLOURS.get(name, _SOFT)}">'
        f'<rect class="paper" width="100%" height="100%" fill="#fff"/>{drawn}</svg>'
    )


def _below(ticks: Sequence[tuple[float, str]], title: str) -> str:
    texts = [(x, _HEIGHT - _BOTTOM + 17, text) for x, text in ticks]
    texts.append(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM + 36, title))
    return "".join(
        f'<text x="{x:.1f}" y="{y}" text-anchor="middle" fill="{_SOFT}">{text}</text>'
        for x, y, text in texts
    )


def _key(mark: str, text: str, left: int) -> str:
    return (
        f'<g class="key" transform="translate({left} {_HEIGHT - 5})">{mark}'
        f'<text x="25" fill="{_SOFT}">{text}</text></g>'
    )


def _middles(edges: Sequence[float]) -> list[float]:
    return [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0, 10.0) if (high - low) / s <= 6)
    first = math.ceil(low / step)
    return [step * n for n in range(first, math.floor(high / step) + 1)]


def _recall_ticks(lowest: float) -> list[float]:
    step = 0.1 if lowest >= 0.5 else 0.25
    count = math.floor((1 - lowest) / step + 1e-9)
    return [1 - step * n for n in range(count + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two powers of ten, six at most, two where there are two."""
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        inside = [
            float(f"{digit}e{power}")
            for power in range(math.floor(low), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit) + power <= high
        ]
        if 2 <= len(inside) <= 6:
            return inside
    return inside[:6]
