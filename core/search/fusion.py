"""Rankings made into one, and how far two rankings agree. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.records import FusedHit, Hit

Normalisation = Literal["minmax", "zscore"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two rankings agree.

    Attributes:
        overlap: ``shared / depth``, in [0, 1].
        jaccard: Shared ids over all ids, in [0, 1].
        rbo: Rank-biased overlap, extrapolated, in [0, 1]; see :func:`rank_biased_overlap`.
        shared: Number of ids in both.
        depth: Length of the longer ranking.
    """

    overlap: float
    jaccard: float
    rbo: float
    shared: int
    depth: int


def rrf(rankings: Mapping[str, Sequence[Hit]], k: int = 60) -> list[FusedHit]:
    """Fuse rankings by reciprocal rank: an image scores the sum of ``1 / (k + rank)``.

    Only ranks count, so scores on different scales can be fused (Cormack, Clarke and
    Büttcher, 2009, where k = 60 comes from).

    Args:
        rankings: Hits by the name of their ranking.
        k: 0 or more; the larger, the less the first ranks stand out.

    Returns:
        Every image of any ranking, best first. Ties go to the better best rank, then by id.
    """
    if k < 0:
        raise ValueError(f"k must be 0 or more; got {k}")
    sources = _by_image(rankings)
    scores = {
        image_id: math.fsum(1.0 / (k + hit.rank) for hit in hits.values())
        for image_id, hits in sources.items()
    }
    return _ranked(scores, sources)


def weighted_sum(
    rankings: Mapping[str, Sequence[Hit]],
    weights: Mapping[str, float] | None = None,
    normalisation: Normalisation = "minmax",
) -> list[FusedHit]:
    """Fuse rankings by the weighted sum of their scores, each ranking normalised by itself.

    Args:
        rankings: Hits by the name of their ranking.
        weights: A weight of 0 or more for each ranking's name; None weighs them equally. Only
            their proportions count.
        normalisation: ``minmax`` maps a ranking's scores to [0, 1], or all to 1 if they are
            equal; ``zscore`` to mean 0 and deviation 1, or all to 0 if they are equal. An image
            that a ranking lacks gets the lowest normalised score of that ranking, which for
            ``minmax`` is 0.

    Returns:
        Every image of any ranking, best first. Ties go to the better best rank, then by id.

    Raises:
        ValueError: A name without weight, a negative weight, or weights that sum to 0.
    """
    shares = _shares(rankings, weights)
    normalised = {name: _normalised(hits, normalisation) for name, hits in rankings.items()}
    lowest = {
        name: 0.0 if normalisation == "minmax" else min(scores.values(), default=0.0)
        for name, scores in normalised.items()
    }
    sources = _by_image(rankings)
    scores = {
        image_id: math.fsum(
            shares[name] * normalised[name].get(image_id, lowest[name]) for name in rankings
        )
        for image_id in sources
    }
    return _ranked(scores, sources)


def agreement(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> Agreement:
    """Compare two rankings of ids, best first; two empty rankings agree entirely."""
    shared = len(set(first) & set(second))
    union = len(set(first) | set(second))
    depth = max(len(first), len(second))
    return Agreement(
        overlap=shared / depth if depth else 1.0,
        jaccard=shared / union if union else 1.0,
        rbo=rank_biased_overlap(first, second, p),
        shared=shared,
        depth=depth,
    )


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Return extrapolated rank-biased overlap (Webber, Moffat and Zobel, 2010, equation 32).

    Agreement at the first ranks weighs more, and what lies beyond the end of the lists is taken
    to agree as far as what was seen. 1 for equal lists, 0 for disjoint ones.

    Args:
        first: Distinct ids, best first.
        second: Likewise; the lengths may differ.
        p: Persistence in (0, 1): the chance to read on after each rank. 0.9 puts 86 % of the
            weight on the first ten ranks.

    Raises:
        ValueError: p outside (0, 1), or an id twice in one list.
    """
    if not 0 < p < 1:
        raise ValueError(f"p must lie between 0 and 1; got {p}")
    for ranking in (first, second):
        if len(set(ranking)) != len(ranking):
            raise ValueError("a ranking holds an id twice")
    short, long = sorted((first, second), key=len)
    if not short:
        return 0.0 if long else 1.0
    overlap_at = _overlaps(short, long)
    s, l = len(short), len(long)  # noqa: E741 - the paper's letters
    x_s, x_l = overlap_at[s], overlap_at[l]
    seen = math.fsum(overlap_at[d] / d * p**d for d in range(1, l + 1))
    unseen = math.fsum(x_s * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (seen + unseen) + ((x_l - x_s) / l + x_s / s) * p**l


def _overlaps(short: Sequence[str], long: Sequence[str]) -> list[int]:
    """Return at d the number of ids that the first d of both lists share."""
    in_short: set[str] = set()
    in_long: set[str] = set()
    overlaps = [0]
    for depth, from_long in enumerate(long):
        in_long.add(from_long)
        in_short.update(short[depth : depth + 1])
        overlaps.append(len(in_short & in_long))
    return overlaps


def _by_image(rankings: Mapping[str, Sequence[Hit]]) -> dict[str, dict[str, Hit]]:
    sources: dict[str, dict[str, Hit]] = {}
    for name, hits in rankings.items():
        for hit in hits:
            sources.setdefault(hit.id, {})[name] = hit
    return sources


def _ranked(
    scores: Mapping[str, float], sources: Mapping[str, Mapping[str, Hit]]
) -> list[FusedHit]:
    def key(image_id: str) -> tuple[float, int, str]:
        return -scores[image_id], min(hit.rank for hit in sources[image_id].values()), image_id

    return [
        FusedHit(id=image_id, score=scores[image_id], rank=rank, sources=sources[image_id])
        for rank, image_id in enumerate(sorted(scores, key=key), start=1)
    ]


def _shares(
    rankings: Mapping[str, Sequence[Hit]], weights: Mapping[str, float] | None
) -> dict[str, float]:
    chosen = {name: 1.0 for name in rankings} if weights is None else dict(weights)
    for name in rankings:
        if name not in chosen:
            raise ValueError(f"no weight for the ranking {name!r}")
        if not chosen[name] >= 0:
            raise ValueError(f"the weight of {name!r} must be 0 or more; got {chosen[name]}")
    total = math.fsum(chosen[name] for name in rankings)
    if rankings and not 0 < total < math.inf:
        raise ValueError(f"the weights sum to {total}")
    return {name: chosen[name] / total for name in rankings}


def _normalised(hits: Sequence[Hit], normalisation: Normalisation) -> dict[str, float]:
    if not hits:
        return {}
    scores = [hit.score for hit in hits]
    if normalisation == "minmax":
        low, spread = min(scores), max(scores) - min(scores)
        return {hit.id: (hit.score - low) / spread if spread else 1.0 for hit in hits}
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    return {hit.id: (hit.score - mean) / deviation if deviation else 0.0 for hit in hits}
