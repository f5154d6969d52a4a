"""How far two rankings agree. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


def shared_by_chance(first: int, second: int, size: int) -> float:
    """Return how many pictures two blind choices share on average (hypergeometric mean).

    Args:
        first: Pictures in one choice, at most ``size``.
        second: Pictures in the other.
        size: Pictures to choose from; 0 gives 0.
    """
    return first * second / size if size else 0.0


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
