"""Fusion of the two lenses over many queries at once, and the choice of the best one.

The arithmetic is that of the page (``core.records.Fusion``, ``core.search.fusion``); here it
runs on arrays that all settings share, so that hundreds of them can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.records import LENSES, PLAIN_RRF, Fusion, FusionKind, Lens
from core.search.fusion import normalised
from precompute.evaluate.rankings import DEPTH, Relevant, Scorer, order, ranks_of, scored

# Finer near the ends: cosines of the two lenses have different spreads.
_ENDS = (0.01, 0.02, 0.03)
_WEIGHTS = (
    *_ENDS,
    *(round(0.05 * step, 2) for step in range(1, 20)),
    *(1 - weight for weight in reversed(_ENDS)),
)
_RRF_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_RRF_KS = (1, 3, 5, 10, 20, 40, 60, 100)


class BothLenses:
    """What the two lenses make of some queries, and what all fusions of them share.

    Attributes:
        scores: float32 (rows, n), by lens.
    """

    def __init__(
        self, captions: np.ndarray, clip: np.ndarray, owed: np.ndarray | float = 0.0
    ) -> None:
        """Take the scores of the same queries, (rows, n) each, and what hubs owe to that, (n,)."""
        self._owed = owed
        self.scores: dict[Lens, np.ndarray] = {"captions": captions, "clip": clip}
        self._prepared: dict[str, list[np.ndarray]] = {}

    @cached_property
    def first(self) -> dict[Lens, np.ndarray]:
        """The first :data:`DEPTH` pictures of each lens, int (rows, DEPTH or n)."""
        return {lens: order(scores, DEPTH) for lens, scores in self.scores.items()}

    def ranks(self, fusion: Fusion, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the exact ranks of some pictures under a fusion; ties in picture order.

        Args:
            fusion: Any.
            rows: int (pairs,), rising.
            images: int (pairs,), a picture of each of these rows.

        Returns:
            int64 (pairs,), from 1.
        """
        if fusion.kind == "rrf":
            return self._listed.ranks(fusion, rows, images)
        if fusion.kind not in self._prepared:
            self._prepared[fusion.kind] = [
                normalised(self.scores["captions"], fusion.kind),
                normalised(self.scores["clip"], fusion.kind, self._owed),
            ]
        captions, clip = self._prepared[fusion.kind]
        needed, at = np.unique(rows, return_inverse=True)
        if len(needed) < len(captions):
            captions, clip = captions[needed], clip[needed]
        return ranks_of(fusion.fuse(captions, clip), at, images)

    @cached_property
    def _listed(self) -> _Listed:
        return _Listed.of(self.first, self.scores["captions"].shape)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The pictures that any lens has among its first :data:`DEPTH`: rank fusion needs no others.

    Attributes:
        places: float32 (rows, n) by lens: rank of each picture, infinite beyond its first.
        pictures: int32 (rows, m), those of the caption lens, then those of the CLIP lens.
        listed: float64 (rows, m) by lens: their ranks; infinite in both where a picture comes
            for the second time.
    """

    places: dict[Lens, np.ndarray]
    pictures: np.ndarray
    listed: dict[Lens, np.ndarray]

    @classmethod
    def of(cls, first: dict[Lens, np.ndarray], shape: tuple[int, ...]) -> _Listed:
        """Make it of the first pictures of each lens, int (rows, depth), out of (rows, n)."""
        places: dict[Lens, np.ndarray] = {}
        for lens, pictures in first.items():
            places[lens] = np.full(shape, np.inf, dtype=np.float32)
            ranks = np.arange(1, pictures.shape[1] + 1, dtype=np.float32)[None, :]
            np.put_along_axis(places[lens], pictures, ranks, axis=1)
        depth = first["captions"].shape[1]
        pictures = first["captions"]
        if depth < shape[1]:
            pictures = np.concatenate([first[lens] for lens in LENSES], axis=1)
        # float32 would tie the reciprocals of neighbouring ranks beyond a few hundred
        listed = {
            lens: np.take_along_axis(places[lens], pictures, axis=1).astype(np.float64)
            for lens in LENSES
        }
        again = np.isfinite(listed["captions"][:, depth:])
        for ranks in listed.values():
            ranks[:, depth:][again] = np.inf
        return cls(places, pictures.astype(np.int32), listed)

    def ranks(self, fusion: Fusion, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """See :meth:`BothLenses.ranks`."""
        own = fusion.fuse(*(self.places[lens][rows, images].astype(np.float64) for lens in LENSES))[
            :, None
        ]
        fused, pictures = fusion.fuse(*(self.listed[lens] for lens in LENSES)), self.pictures
        if not np.array_equal(rows, np.arange(len(fused))):
            fused, pictures = fused[rows], pictures[rows]
        earlier = pictures < images.astype(np.int32)[:, None]
        ahead = (fused > own) | ((fused == own) & earlier)
        ranks: np.ndarray = 1 + np.count_nonzero(ahead, axis=1)
        # Behind all that are listed the others come in picture order.
        last = np.flatnonzero(own == 0)
        listed = fused[last] > 0
        skipped = np.count_nonzero(listed & earlier[last], axis=1)
        ranks[last] = 1 + np.count_nonzero(listed, axis=1) + images[last] - skipped
        return ranks


def candidates(*, corrected: bool = True) -> tuple[Fusion, ...]:
    """Return every setting that is tried, the plainest of each family first.

    Args:
        corrected: Whether it is known which pictures are hubs.
    """
    rrf = [Fusion("rrf", weight, k) for weight in _RRF_WEIGHTS for k in _RRF_KS]
    kinds: list[FusionKind] = ["cosine", "minmax", "zscore"]
    if corrected:
        kinds.append("corrected")
    sums = [Fusion(kind, weight, 0) for kind in kinds for weight in _WEIGHTS]
    return tuple(dict.fromkeys([PLAIN_RRF, *rrf, *sums]))


def reciprocal_ranks(
    tried: Sequence[Fusion],
    captions: Scorer,
    clip: Scorer,
    relevant: Relevant,
    images: int,
    owed: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return 1 / rank of the best placed relevant picture, float (fusions, queries)."""
    queries = len(relevant.first) - 1
    found = np.empty((len(tried), queries))
    for part, (said, seen) in scored((captions, clip), queries, images):
        lenses = BothLenses(said, seen, owed)
        pairs = relevant.inside(part)
        for row, fusion in enumerate(tried):
            found[row, part] = 1.0 / relevant.best(lenses.ranks(fusion, *pairs), part)
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
    kept = dict.fromkeys([best["rrf"], best["sum"], PLAIN_RRF])
    return Tuned(best["rrf"], best["sum"], {f: mrr[f] for f in kept if f in mrr})
