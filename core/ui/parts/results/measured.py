"""What an evaluation of the gallery found, in a line; and a query that only one lens solves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import QueryError
from core.gallery.figures.metrics_charts import ENOUGH
from core.gallery.figures.metrics_file import METRICS_FILE, Metrics, SolvedByOne, read_metrics
from core.gallery.reader import Gallery
from core.records import LENSES, Lens
from core.search.query_language.parse import parse_query
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.parts.markup import LENS_WORDS, escape

_ONLY: dict[Lens, str] = {"captions": "only captions find this", "clip": "only CLIP finds this"}
_NOTHING = 0


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is shown of an evaluation: found of 100 queries, or of all few; a case for each lens."""

    found: Mapping[str, str]
    cases: Mapping[Lens, SolvedByOne]
    of: int = 100


def case_chips(entry: ShelvedGallery, current: str = "") -> str:
    """Return for each lens a query that only it solves, as a button; "" where none is known."""
    return "".join(
        f'<button type="button" class="tl-chip tl-only {lens}" data-query="{escape(case.query)}"'
        f"{' aria-pressed=true' if case.query == current else ''}>{LENS_WORDS[lens].mark}"
        f"{_ONLY[lens]}</button>"
        for lens, case in _measured(entry).cases.items()
    )


def solved_queries(entry: ShelvedGallery) -> tuple[str, ...]:
    """Return the queries of :func:`case_chips`."""
    return tuple(case.query for case in _measured(entry).cases.values())


def measured_line(entry: ShelvedGallery) -> str:
    """Return how often each lens finds the right picture, as a button that leads to the figures."""
    measured = _measured(entry)
    found = measured.found
    if not found:
        return ""
    shares = ", ".join(
        f'<b class="{lens}">{name} {found[lens]}</b>'
        for lens, name in (("captions", "captions"), ("clip", "CLIP"), ("fused", "both"))
    )
    return (
        '<button type="button" class="tl-verdict" data-tab="Which is better?">'
        f"Of {measured.of} searches measured here, found: {shares}</button>"
    )


def _measured(entry: ShelvedGallery) -> _Measured:
    """Return what is shown of a gallery's figures, read anew when they change."""
    gallery = entry.gallery
    if not isinstance(gallery, Gallery):  # a visitor's own photos
        return _Measured({}, {})
    try:
        stamp = (gallery.folder / METRICS_FILE).stat().st_mtime_ns
    except OSError:
        stamp = _NOTHING
    kept: dict[int, _Measured] = gallery.column("measured", dict)
    if stamp not in kept:
        found = read_metrics(gallery) if stamp != _NOTHING else ""
        kept.clear()
        kept[stamp] = _shown(found) if isinstance(found, Metrics) else _Measured({}, {})
    return kept.get(stamp, _Measured({}, {}))


def _shown(metrics: Metrics) -> _Measured:
    of = metrics.queries if metrics.queries < ENOUGH else 100
    found = {
        lens: f"{of * metrics.lenses[lens].r_at_5:.0f}" for lens in ("captions", "clip", "fused")
    }
    cases: dict[Lens, SolvedByOne] = {}
    for lens in LENSES:
        solved = [case for case in metrics.solved_by_one if case.winner == lens]
        case = next((case for case in solved if _is_plain(case.query)), None)
        if case is not None:
            cases[lens] = case
    return _Measured(found, cases, of)


def _is_plain(query: str) -> bool:
    """Tell whether words that somebody wrote are searched as they were measured."""
    try:
        parsed = parse_query(query)
    except QueryError:
        return False
    return parsed.is_plain and not parsed.filters
