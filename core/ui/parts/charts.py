"""The plots of the evaluation tab, drawn as HTML and SVG in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.gallery.metrics_file import (
    Histogram,
    IndexCurve,
    LensName,
    MetricName,
    Metrics,
    QueryGroup,
)
from core.ui.parts.markup import escape

BAR_METRICS: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")
BAR_LENSES: tuple[LensName, ...] = ("captions", "clip", "fused", "bm25", "random")
LENS_NAMES: dict[LensName, str] = {
    "captions": "Caption lens",
    "clip": "CLIP lens",
    "fused": "Best of both",
    "fused_rrf": "Joined by rank",
    "fused_sum": "Joined by score",
    "rrf_60": "Joined by rank, untuned",
    "captions_first": "Caption lens, first caption alone",
    "captions_mean": "Caption lens, mean of the captions",
    "captions_best": "Caption lens, best of the captions",
    "bm25": "Shared words only",
    "random": "Chance",
}

_WIDTH, _HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 42


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal, without the sign; "" for None."""
    return "" if value is None else f"{100 * value:.1f}"


def recall_bars(metrics: Metrics) -> str:
    """Return one small chart for each metric: a bar for each lens, its interval as a whisker."""
    charts = []
    for metric in BAR_METRICS:
        rows = []
        for lens in BAR_LENSES:
            figures = metrics.lenses.get(lens)
            if figures is None:
                continue
            value, (low, high) = figures.value(metric) or 0.0, figures.ci95[metric]
            rows.append(
                f'<li class="{lens}"><span class="tl-m-name">{LENS_NAMES[lens]}</span>'
                f'<span class="tl-m-track" aria-hidden="true"><i style="width:{value:.2%}"></i>'
                f'<b style="left:{low:.2%};width:{max(0.0, high - low):.2%}"></b></span>'
                f'<span class="tl-m-value">{percent(value)}<span class="tl-sr"> percent, '
                f"{percent(low)} to {percent(high)}</span></span></li>"
            )
        charts.append(
            f'<div class="tl-m-chart"><h3>{metric}</h3><ul class="tl-m-bars">{"".join(rows)}</ul>'
            "</div>"
        )
    return f'<div class="tl-m-charts">{"".join(charts)}</div>'


def group_table(groups: Sequence[QueryGroup]) -> str:
    """Return a table of R@5 by kind of query, each row with its three lenses on one scale."""
    rows = []
    for group in groups:
        marks = "".join(
            _mark(lens, 4 + 152 * group.r_at_5[lens], 11)
            for lens in ("captions", "clip", "fused")
            if lens in group.r_at_5
        )
        values = "".join(
            f'<td class="tl-m-number {lens}">{percent(group.r_at_5.get(lens))}</td>'
            for lens in ("captions", "clip", "fused")
        )
        rows.append(
            f'<tr><th scope="row">{escape(group.name)}</th><td class="tl-m-number">'
            f"{group.queries:,}</td>{values}"
            '<td class="tl-m-plot"><svg viewBox="0 0 160 22" width="160" height="22" '
            'aria-hidden="true" focusable="false"><line class="tl-m-axis" x1="4" x2="156" y1="11" '
            f'y2="11"/>{marks}</svg></td>'
            f'<td class="tl-m-number">{percent(group.overlap_at_10)}</td></tr>'
        )
    return (
        '<div class="tl-table"><table><thead><tr><th scope="col">queries with</th>'
        '<th scope="col">how many</th><th scope="col">Caption</th><th scope="col">CLIP</th>'
        '<th scope="col">Both</th><th scope="col" class="tl-m-plot">R@5, 0 to 100 %</th>'
        '<th scope="col">same in ten, %</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _mark(lens: str, x: float, y: float) -> str:
    """Return a lens's mark: a disc, a diamond or a ring, so that colour never stands alone."""
    if lens == "clip":
        return f'<path class="tl-m-{lens}" d="M{x - 6:.1f} {y}l6-6l6 6l-6 6z"/>'
    return f'<circle class="tl-m-{lens}" cx="{x:.1f}" cy="{y}" r="5"/>'


def score_plot(lens: LensName, found: Histogram) -> str:
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

    ticks = "".join(
        f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{value:.1f}'
        "</text>"
        for value in _ticks(low, high)
    )
    right = sum(a * b for a, b in zip(found.right, _middles(found.edges), strict=True))
    wrong = sum(a * b for a, b in zip(found.wrong, _middles(found.edges), strict=True))
    said = (
        f"{LENS_NAMES[lens]}: right pictures score {right:.2f} on average, "
        f"the best wrong ones {wrong:.2f}."
    )
    return (
        f'<figure class="tl-m-figure {lens}"><figcaption>{LENS_NAMES[lens]}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said)}">'
        f'<path class="tl-m-right" d="{outline(found.right)}"/>'
        f'<path class="tl-m-wrong" d="{outline(found.wrong)}"/>'
        f'<path class="tl-m-axis" d="M{_LEFT} {y(0):.1f}H{_WIDTH - _RIGHT}"/>{ticks}'
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">score'
        '</text></svg><p class="tl-m-key"><span class="right"></span>the right picture '
        '<span class="wrong"></span>the best wrong one</p></figure>'
    )


def index_plot(title: str, curve: IndexCurve) -> str:
    """Return recall against median latency on a logarithmic scale, flat marked apart."""
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
    dots = "".join(
        f'<circle class="tl-m-dot" cx="{x(point.p50_ms):.1f}" cy="{y(point.recall):.1f}" r="4.5">'
        f"<title>IVF, nprobe {point.nprobe}: {point.recall:.1%} in {point.p50_ms:.3g} ms</title>"
        "</circle>"
        for point in ivf
    )
    grid = "".join(
        f'<path class="tl-m-grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>'
        for value in _recall_ticks(lowest)
    )
    times_shown = "".join(
        f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{value:g}'
        "</text>"
        for value in _log_ticks(low, high)
    )
    said = "; ".join(
        f"{'flat' if p.kind == 'flat' else f'IVF nprobe {p.nprobe}'}: {p.recall:.0%} in "
        f"{p.p50_ms:.3g} ms"
        for p in curve.points
    )
    fx, fy = x(flat.p50_ms), y(flat.recall)
    return (
        f'<figure class="tl-m-figure {escape(title)}"><figcaption>{_curve_name(title)}, '
        f"{curve.vectors:,} vectors</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said)}">{grid}'
        f'<path class="tl-m-line" d="{line}"/>{dots}'
        f'<path class="tl-m-flat" d="M{fx - 7:.1f} {fy:.1f}l7-7l7 7l-7 7z"><title>flat: '
        f"{flat.p50_ms:.3g} ms</title></path>{times_shown}"
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        'milliseconds a search (median)</text></svg><p class="tl-m-key"><span class="flat"></span>'
        'flat <span class="ivf"></span>IVF, more clusters to the right</p></figure>'
    )


def _curve_name(title: str) -> str:
    names = {"captions": "Caption lens", "clip": "CLIP lens"}
    return names.get(title, "A larger index, made from this gallery's")


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
