"""Fusion of the two lenses over whole blocks of queries, and the choice of the best one.

The arithmetic is that of :mod:`core.fusion`, which fuses one query's hits; here it runs on the
scores of all pictures at once, so that hundreds of settings can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from precompute.rankings import DEPTH, Relevant, Scorer, blocks, order

# Finer near the ends: cosines of the two lenses have different spreads.
_ENDS = (0.01, 0.02, 0.03)
_WEIGHTS = (
    *_ENDS,
    *(round(0.05 * step, 2) for step in range(1, 20)),
    *(1 - weight for weight in reversed(_ENDS)),
)
_RRF_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_RRF_KS = (1, 3, 5, 10, 20, 40, 60, 100)


@dataclass(frozen=True, slots=True)
class Fusion:
    """One way to join the two lenses.

    Attributes:
        kind: ``rrf``, or how scores are normalised before they are summed: ``cosine`` (not at
            all), ``minmax`` or ``zscore``, over all pictures for each query.
        weight: Of the caption lens, in (0, 1); the CLIP lens has the rest.
        k: Of reciprocal rank fusion; unused by sums.
    """

    kind: Literal["rrf", "cosine", "minmax", "zscore"]
    weight: float = 0.5
    k: int = 60

    def __str__(self) -> str:
        """Say it in words, e.g. ``"z-score sum, caption weight 0.35"``."""
        if self.kind == "rrf":
            weighted = "" if self.weight == 0.5 else f", caption weight {self.weight:g}"
            return f"reciprocal rank fusion, k = {self.k}{weighted}"
        names = {"cosine": "cosine sum", "minmax": "min-max sum", "zscore": "z-score sum"}
        return f"{names[self.kind]}, caption weight {self.weight:g}"

    @property
    def family(self) -> Literal["rrf", "sum"]:
        """``rrf`` or ``sum``."""
        return "rrf" if self.kind == "rrf" else "sum"

    def fuse(self, captions: np.ndarray, clip: np.ndarray) -> np.ndarray:
        """Join two blocks of prepared scores (:func:`prepare`) into one, float (rows, n)."""
        if self.kind == "rrf":
            return self.weight / (self.k + captions) + (1 - self.weight) / (self.k + clip)
        return self.weight * captions + (1 - self.weight) * clip


def prepare(scores: np.ndarray, kind: str) -> np.ndarray:
    """Turn a block of scores (rows, n) into what :meth:`Fusion.fuse` joins.

    For ``rrf`` the rank of every picture, from 1 (infinity beyond :data:`DEPTH`); else the
    scores, normalised for each query.
    """
    if kind == "rrf":
        first = order(scores, DEPTH)
        # float32 would tie the reciprocals of neighbouring ranks beyond a few hundred
        ranks = np.full(scores.shape, np.inf, dtype=np.float64)
        np.put_along_axis(ranks, first, np.arange(1.0, first.shape[1] + 1)[None, :], axis=1)
        return ranks
    if kind == "minmax":
        low = scores.min(axis=1, keepdims=True)
        spread = scores.max(axis=1, keepdims=True) - low
        return np.where(spread > 0, (scores - low) / np.where(spread > 0, spread, 1), 1.0)
    if kind == "zscore":
        centred = scores - scores.mean(axis=1, keepdims=True)
        deviation = centred.std(axis=1, keepdims=True)
        return np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1), 0.0)
    return scores


def candidates() -> tuple[Fusion, ...]:
    """Return every setting that is tried, the plainest of each family first."""
    plain = [Fusion("rrf", k=60)]
    rrf = [Fusion("rrf", weight, k) for weight in _RRF_WEIGHTS for k in _RRF_KS]
    sums = [
        Fusion(kind, weight, 0) for kind in ("cosine", "minmax", "zscore") for weight in _WEIGHTS
    ]
    return tuple(dict.fromkeys([*plain, *rrf, *sums]))


def reciprocal_ranks(
    tried: Sequence[Fusion], captions: Scorer, clip: Scorer, relevant: Relevant, images: int
) -> np.ndarray:
    """Return 1 / rank of the best placed relevant picture, float (fusions, queries)."""
    queries = len(relevant.first) - 1
    found = np.empty((len(tried), queries))
    kinds = dict.fromkeys(fusion.kind for fusion in tried)
    for block in blocks(queries, images):
        raw = captions(block), clip(block)
        for kind in kinds:
            prepared = [prepare(scores, kind) for scores in raw]
            for row, fusion in enumerate(tried):
                if fusion.kind == kind:
                    fused = fusion.fuse(prepared[0], prepared[1])
                    found[row, block] = 1.0 / relevant.best_rank(fused, block)
    return found


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best fusions on one set of queries.

    Attributes:
        rrf: The best reciprocal rank fusion.
        weighted_sum: The best weighted sum.
        mrr: Mean reciprocal rank there of both, and of plain RRF with k = 60.
    """

    rrf: Fusion
    weighted_sum: Fusion
    mrr: dict[Fusion, float]

    @property
    def best(self) -> Fusion:
        """The better of the two; plain RRF where they tie."""
        return max((self.rrf, self.weighted_sum), key=lambda fusion: self.mrr[fusion])


def tune(tried: Sequence[Fusion], found: np.ndarray) -> Tuned:
    """Choose by mean reciprocal rank; the first of equals.

    Args:
        tried: As given to :func:`reciprocal_ranks`.
        found: What it returned, or some of its columns.
    """
    mrr = dict(zip(tried, found.mean(axis=1).tolist(), strict=True))
    best = {
        family: max((f for f in tried if f.family == family), key=lambda fusion: mrr[fusion])
        for family in ("rrf", "sum")
    }
    kept = dict.fromkeys([best["rrf"], best["sum"], Fusion("rrf", k=60)])
    return Tuned(best["rrf"], best["sum"], {f: mrr[f] for f in kept if f in mrr})
