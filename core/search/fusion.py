"""Rankings made into one: the one place where scores are normalised and fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.records import LENSES, FusedHit, Fusion, FusionKind, Hit, Lens

if TYPE_CHECKING:
    from core.search.bm25.picture_text import TextHit

TEXT_WEIGHT = 4.0
"""What a picture in which all words of a query can be read gains in a sum of z-scores."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How one lens's scores of all pictures lie for one query.

    Attributes:
        mean: Of all scores.
        deviation: Their standard deviation.
    """

    mean: float
    deviation: float


def normalised(scores: np.ndarray, kind: FusionKind, owed: np.ndarray | float = 0.0) -> np.ndarray:
    """Normalise scores (rows, n) for each query, as a sum of that kind adds them up.

    Args:
        scores: Of one lens for all pictures.
        kind: Of the sum.
        owed: For ``corrected`` and CLIP's scores: what each picture owes to being a hub, (n,).
    """
    if kind == "minmax":
        low = scores.min(axis=1, keepdims=True)
        spread = scores.max(axis=1, keepdims=True) - low
        scaled = (scores - low) / np.where(spread > 0, spread, 1)
        scaled[spread[:, 0] == 0] = 1.0
        return scaled
    if kind in ("zscore", "corrected"):
        centred = scores - scores.mean(axis=1, keepdims=True)
        deviation = centred.std(axis=1, keepdims=True)
        centred[deviation[:, 0] == 0] = 0.0
        if kind == "corrected":
            centred -= owed
        centred /= np.where(deviation > 0, deviation, 1)
        return centred
    return scores


def standardised(scores: np.ndarray, spread: Spread) -> np.ndarray:
    """Return scores as their distances from the mean of all pictures, in deviations."""
    return (scores - spread.mean) / (spread.deviation or 1.0)


def fuse(
    fusion: Fusion,
    rankings: Mapping[Lens, Sequence[Hit]],
    scores: Mapping[Lens, Mapping[str, float]] | None = None,
    spreads: Mapping[Lens, Spread] | None = None,
    text: Sequence[TextHit] = (),
    owed: Mapping[str, float] | None = None,
) -> list[FusedHit]:
    """Fuse the lenses' rankings of one query.

    Args:
        fusion: ``rrf``, by ranks alone, or a sum: ``cosine`` of scores, ``zscore`` of scores that
            are normalised by their spread over all pictures, ``corrected`` of these less ``owed``.
        rankings: Hits by lens. A lens that is left out has no say.
        scores: For sums: of every picture of any ranking, by lens and id.
        spreads: For ``zscore`` and ``corrected``, by lens.
        text: Pictures found by the text in them, best first: by rank they count as a lens of equal
            weight does, in a sum of z-scores by their share, :data:`TEXT_WEIGHT` times.
        owed: For ``corrected``: what every picture's CLIP score owes to being a hub, by id.

    Returns:
        Every image of any ranking, best first. Ties go to the better best rank, then by id.

    Raises:
        ValueError: ``minmax``, which needs the scores of all pictures, or what a sum needs lacks.
    """
    sources: dict[str, dict[str, Hit]] = {}
    for lens, hits in rankings.items():
        for hit in hits:
            sources.setdefault(hit.id, {})[lens] = hit
    for found in text:
        sources.setdefault(found.hit.id, {})["text"] = found.hit
    ids = list(sources)
    if fusion.kind == "rrf" or len(rankings) < len(LENSES):
        lists = [
            np.array([sources[i][lens].rank if lens in sources[i] else np.inf for i in ids])
            for lens in LENSES
        ]
        by_rank = fusion if fusion.kind == "rrf" else Fusion("rrf")
        fused = by_rank.fuse(*lists)
        added = {found.hit.id: 1 / (by_rank.k + found.hit.rank) for found in text}
    else:
        lacks = fusion.kind == "minmax" or (fusion.standardises and not spreads)
        lacks = lacks or (fusion.kind == "corrected" and owed is None)
        if scores is None or lacks or (text and not fusion.standardises):
            raise ValueError(f"{fusion} cannot be computed from what was given")
        lists = [np.array([scores[lens][i] for i in ids], dtype=np.float64) for lens in LENSES]
        if fusion.kind == "corrected" and owed is not None:
            lists[LENSES.index("clip")] -= [owed[i] for i in ids]
        if fusion.standardises and spreads:
            lists = [
                standardised(own, spreads[lens]) for lens, own in zip(LENSES, lists, strict=True)
            ]
        fused = fusion.fuse(*lists)
        added = {found.hit.id: TEXT_WEIGHT * found.share for found in text}
    by_id = {i: own + added.get(i, 0.0) for i, own in zip(ids, fused.tolist(), strict=True)}

    def key(image_id: str) -> tuple[float, int, str]:
        return -by_id[image_id], min(hit.rank for hit in sources[image_id].values()), image_id

    return [
        FusedHit(id=image_id, score=by_id[image_id], rank=rank, sources=sources[image_id])
        for rank, image_id in enumerate(sorted(by_id, key=key), start=1)
    ]
