"""How both lenses answer queries of the kinds that lenses read badly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.gallery.figures.metrics_file import KindFigures, LensName
from core.records import LENSES
from precompute.evaluate.lenses.text_lens import text_scorers
from precompute.evaluate.qrels import SOLVED_RANK, Query, QuerySet
from precompute.evaluate.queries import AskedQueries
from precompute.evaluate.rankings import Scorer, ranks_of
from precompute.evaluate.written_queries.written import WrittenQuery, written_queries

if TYPE_CHECKING:
    from core.gallery.reader import Gallery
    from core.models.profiles import Models


def kind_figures(
    gallery: Gallery, models: Models, folder: Path | None = None
) -> tuple[KindFigures, ...]:
    """Ask what was written for a gallery's pictures, and count what each lens gets right.

    The text in the pictures is a third lens where it was read.

    Args:
        gallery: What is searched.
        models: What embeds the queries.
        folder: As for :func:`written_queries`.

    Raises:
        SourceError: As there.
    """
    queries = written_queries(gallery.manifest.source.id, gallery.records, folder)
    if not queries:
        return ()
    texts = [query.text for query in queries]
    swapped = {query.id: query.swapped for query in queries if query.swapped is not None}
    place = {query_id: len(texts) + number for number, query_id in enumerate(swapped)}
    asked = AskedQueries.embed(gallery, _asked([*texts, *swapped.values()]), models)
    scorers: dict[LensName, Scorer] = {lens: asked.scorer(lens) for lens in LENSES}
    scorers |= text_scorers(asked, models.profile.served_fusion)
    right = {
        lens: _right(scorer(slice(0, len(asked))), queries, place)
        for lens, scorer in scorers.items()
        if lens != "fused_text"
    }
    return tuple(
        KindFigures.model_validate(
            {
                "kind": kind,
                "test": queries[rows[0]].test,
                "queries": len(rows),
                "right": {lens: int(found[rows].sum()) for lens, found in right.items()},
                "chance": round(sum(queries[row].chance(len(gallery)) for row in rows), 2),
            }
        )
        for kind, rows in _by_kind(queries).items()
    )


def _asked(texts: Iterable[str]) -> QuerySet:
    queries = (Query(str(row), text, {}, -1 - row) for row, text in enumerate(texts))
    return QuerySet(tuple(queries), "written queries")


def _by_kind(queries: Sequence[WrittenQuery]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, query in enumerate(queries):
        rows[query.kind].append(row)
    return rows


def _right(
    scores: np.ndarray, queries: Sequence[WrittenQuery], place: dict[str, int]
) -> np.ndarray:
    """Return which queries are answered rightly: bool (queries,).

    Args:
        scores: float (texts, pictures), the swapped texts behind those of the queries.
        queries: What was asked.
        place: Row of a query's swapped text by its id.
    """
    right = np.zeros(len(queries), dtype=bool)
    for row, query in enumerate(queries):
        if query.test == "two_texts":
            picture = query.right[0]
            right[row] = scores[row, picture] > scores[place[query.id], picture]
            continue
        compared = np.array([*query.right, *([] if query.wrong is None else [query.wrong])])
        ranks = ranks_of(scores, np.full(len(compared), row), compared)
        best = ranks[: len(query.right)].min()
        right[row] = best <= SOLVED_RANK if query.wrong is None else best < ranks[-1]
    return right
