"""Where the two lenses differ: by length and content of the query, and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.gallery.figures.metrics_file import Histogram, QueryGroup, SolvedByOne
from core.records import ImageRecord
from core.search.query_kinds import QueryKind, kinds_of
from core.text import words_of
from precompute.evaluate.qrels import SOLVED_RANK, Query

CONTENT: dict[QueryKind, str] = {
    "count": "a count",
    "colour": "a colour",
    "action": "an action",
    "negation": "a negation",
}
"""The kinds of query that are told apart, and what the figures call them."""

_EXAMPLES = 12
_LENGTHS = ((1, 6), (7, 9), (10, 12), (13, 16), (17, None))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the two lenses did with each query.

    Attributes:
        ranks: Rank of the first right picture, int (queries,), by lens.
        first: First ten pictures, int (queries, 10), by ``captions`` and ``clip``.
    """

    ranks: dict[str, np.ndarray]
    first: dict[str, np.ndarray]


def groups(queries: Sequence[Query], outcome: Outcome) -> tuple[QueryGroup, ...]:
    """Return figures for queries of each length and content; a query may be in several."""
    words = [words_of(query.text) for query in queries]
    lengths = np.array([len(found) for found in words])
    overlap = np.array(
        [
            len(set(one) & set(other)) / len(one)
            for one, other in zip(
                outcome.first["captions"].tolist(), outcome.first["clip"].tolist(), strict=True
            )
        ]
    )
    made = []
    for low, high in _LENGTHS:
        name = f"{low} to {high} words" if high else f"{low} words or more"
        chosen = (lengths >= low) & (lengths <= (high or lengths.max(initial=low)))
        made.append(_group("length", name, chosen, outcome, overlap))
    kinds = [kinds_of(query.text) for query in queries]
    none_of_these = np.ones(len(kinds), dtype=bool)
    for kind, name in CONTENT.items():
        chosen = np.array([kind in found for found in kinds], dtype=bool)
        none_of_these &= ~chosen
        made.append(_group("content", name, chosen, outcome, overlap))
    made.append(_group("content", "none of these", none_of_these, outcome, overlap))
    return tuple(group for group in made if group is not None)


def _group(
    group: str, name: str, chosen: np.ndarray, outcome: Outcome, overlap: np.ndarray
) -> QueryGroup | None:
    if not chosen.any():
        return None
    solved = {lens: ranks[chosen] <= SOLVED_RANK for lens, ranks in outcome.ranks.items()}
    return QueryGroup.model_validate(
        {
            "group": group,
            "name": name,
            "queries": int(chosen.sum()),
            "r_at_5": {lens: float(found.mean()) for lens, found in solved.items()},
            "only_captions": float((solved["captions"] & ~solved["clip"]).mean()),
            "only_clip": float((solved["clip"] & ~solved["captions"]).mean()),
            "overlap_at_10": float(overlap[chosen].mean()),
        }
    )


def solved_by_one(
    queries: Sequence[Query],
    records: Sequence[ImageRecord],
    outcome: Outcome,
    caption_of: Callable[[int, int], str],
) -> tuple[SolvedByOne, ...]:
    """Return some queries that one lens puts first and the other furthest down, one a picture.

    Args:
        queries: What was asked.
        records: The pictures, in row order.
        outcome: What the lenses did.
        caption_of: Returns the caption of a picture that is nearest to a query, by their rows.
    """
    examples: list[SolvedByOne] = []
    for winner, loser in (("captions", "clip"), ("clip", "captions")):
        won, lost = outcome.ranks[winner], outcome.ranks[loser]
        solved = np.flatnonzero((won <= SOLVED_RANK) & (lost > SOLVED_RANK))
        used: set[int] = set()
        for row in solved[np.lexsort((solved, -lost[solved], won[solved]))].tolist():
            query = queries[row]
            shown = outcome.first[winner][row][: int(won[row])].tolist()
            image = next(picture for picture in shown if picture in query.relevant)
            if image in used:
                continue
            used.add(image)
            instead = int(outcome.first[loser][row][0])
            examples.append(
                SolvedByOne.model_validate(
                    {
                        "winner": winner,
                        "query": query.text,
                        "image_id": records[image].id,
                        "caption": caption_of(row, image),
                        "captions_rank": int(outcome.ranks["captions"][row]),
                        "clip_rank": int(outcome.ranks["clip"][row]),
                        "shown_instead": records[instead].id,
                        "shown_caption": caption_of(row, instead),
                    }
                )
            )
            if len(used) == _EXAMPLES:
                break
    return tuple(examples)


def histogram(right: np.ndarray, wrong: np.ndarray, bins: int = 30) -> Histogram:
    """Return the distributions of two sets of scores over shared bins, each summing to 1."""
    low = float(min(right.min(), wrong.min()))
    high = float(max(right.max(), wrong.max()))
    edges = np.linspace(low, high if high > low else low + 1e-3, bins + 1)
    return Histogram(
        edges=tuple(round(float(edge), 6) for edge in edges),
        right=tuple(float(n) / len(right) for n in np.histogram(right, edges)[0]),
        wrong=tuple(float(n) / len(wrong) for n in np.histogram(wrong, edges)[0]),
    )
