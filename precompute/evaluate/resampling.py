"""Intervals and paired tests that know that the captions of one picture are not independent.

scipy resamples; here whole pictures (clusters of queries) are what it resamples: five captions of
one photo stand or fall together, and drawing them singly would give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

_BATCH_VALUES = 1_000_000


def _cluster_sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each cluster the sum of its rows, float (clusters, columns), and their number."""
    labels, rows = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(labels), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums, np.bincount(rows, minlength=len(labels))


def mean_intervals(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int
) -> np.ndarray:
    """Return 95 % percentile bootstrap intervals of the columns' means.

    Args:
        values: float (queries, columns).
        clusters: (queries,), which queries belong together: the row of their picture.
        resamples: Bootstrap samples; the same for every column, so columns stay paired.
        seed: Of the draws.

    Returns:
        float (columns, 2), lower and upper bounds.
    """
    sums, sizes = _cluster_sums(values, clusters)

    def means(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        times = _times_drawn(drawn, len(sums))
        found: np.ndarray = ((times @ sums) / (times @ sizes)[:, None]).T
        return found if drawn.ndim > 1 else found[:, 0]

    return np.stack(_bootstrap(means, len(sums), resamples, seed), axis=-1)


def median_interval(
    ranks: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median of ``ranks`` (queries,)."""
    labels, rows = np.unique(clusters, return_inverse=True)
    ascending = np.argsort(ranks, kind="stable")
    sorted_ranks, sorted_rows = ranks[ascending], rows[ascending]

    def medians(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        found: list[float] = []
        for times in _times_drawn(drawn, len(labels)):
            reached = np.cumsum(times[sorted_rows])
            middle = np.searchsorted(reached, [(reached[-1] + 1) // 2, reached[-1] // 2 + 1])
            found.append(float(sorted_ranks[middle].mean()))
        return np.array(found if drawn.ndim > 1 else found[0])

    low, high = _bootstrap(medians, len(labels), resamples, seed)
    return float(low), float(high)


def paired_p_values(
    differences: np.ndarray, clusters: np.ndarray, *, flips: int, seed: int
) -> np.ndarray:
    """Return two-sided p-values that the columns' means are zero, by paired randomisation.

    Under the null hypothesis the two systems could be swapped for any picture, so the signs of
    whole clusters are flipped.

    Args:
        differences: float (queries, columns), one system's value minus the other's.
        clusters: (queries,), which queries are flipped together.
        flips: Random flips.
        seed: Of the flips.

    Returns:
        float (columns,), each at least 1 / (flips + 1).
    """
    sums, _ = _cluster_sums(differences, clusters)
    if len(sums) < 2:  # either sign is as far from zero
        return np.ones(sums.shape[1])
    found = stats.permutation_test(
        (np.ones(len(sums)),),
        lambda signs, axis=-1: np.abs(signs @ sums),
        permutation_type="samples",
        alternative="greater",
        n_resamples=flips,
        batch=max(1, _BATCH_VALUES // len(sums)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.pvalue)


def _bootstrap(
    statistic: Callable[..., np.ndarray], clusters: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of a statistic of drawn clusters' numbers: of one alone, itself twice."""
    if clusters < 2:
        alone = statistic(np.arange(clusters))
        return alone, alone
    found = stats.bootstrap(
        (np.arange(clusters),),
        statistic,
        n_resamples=resamples,
        batch=max(1, _BATCH_VALUES // clusters),
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def _times_drawn(drawn: np.ndarray, clusters: int) -> np.ndarray:
    """Return how often each cluster was drawn, int (samples, clusters)."""
    return np.stack([np.bincount(sample, minlength=clusters) for sample in np.atleast_2d(drawn)])
