"""The figures of the evaluation tab: charts and the text beside them."""

from __future__ import annotations

from collections.abc import Sequence

from core.gallery.figures.metrics_charts import (
    CHART_METRICS,
    LENS_NAMES,
    curve_name,
    group_chart,
    index_chart,
    recall_chart,
    score_chart,
    share,
)
from core.gallery.figures.metrics_file import Metrics, QueryGroup
from core.ui.parts.markup import escape


def recall_figures(metrics: Metrics) -> str:
    """Return one chart for each metric: a bar for each lens, its interval as a whisker."""
    charts = "".join(
        f'<div class="tl-m-chart"><h3>{metric}</h3>{recall_chart(metrics, metric)}</div>'
        for metric in CHART_METRICS
    )
    return f'<div class="tl-m-charts">{charts}</div>'


def score_figures(metrics: Metrics) -> str:
    """Return the score distributions of both lenses."""
    return _figures(
        [
            (lens, LENS_NAMES[lens], score_chart(lens, metrics.scores[lens]))
            for lens in ("captions", "clip")
            if lens in metrics.scores
        ]
    )


def index_figures(metrics: Metrics) -> str:
    """Return flat against IVF, a chart for each index."""
    return _figures(
        [
            (name, f"{curve_name(name)}, {curve.vectors:,} vectors", index_chart(name, curve))
            for name, curve in metrics.index.items()
        ]
    )


def _figures(drawn: Sequence[tuple[str, str, str]]) -> str:
    figures = "".join(
        f'<figure class="tl-m-figure {escape(name)}"><figcaption>{title}</figcaption>{chart}'
        "</figure>"
        for name, title, chart in drawn
    )
    return f'<div class="tl-m-figures">{figures}</div>'


def group_table(groups: Sequence[QueryGroup]) -> str:
    """Return a table of R@5 by kind of query, each row with its three lenses on one scale."""
    rows = []
    for group in groups:
        values = "".join(
            f'<td class="tl-m-number {lens}">{share(group.r_at_5.get(lens), group.queries)}</td>'
            for lens in ("captions", "clip", "fused")
        )
        rows.append(
            f'<tr><th scope="row">{escape(group.name)}</th><td class="tl-m-number">'
            f'{group.queries:,}</td>{values}<td class="tl-m-plot">{group_chart(group)}</td>'
            f'<td class="tl-m-number">{10 * group.overlap_at_10:.1f}</td></tr>'
        )
    return (
        '<div class="tl-table"><table><thead><tr><th scope="col">queries with</th>'
        '<th scope="col">how many</th><th scope="col">Caption</th><th scope="col">CLIP</th>'
        '<th scope="col">Both</th><th scope="col" class="tl-m-plot">R@5, 0 to 100 %</th>'
        '<th scope="col">in both first tens</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
