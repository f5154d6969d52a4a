"""Intervals and paired tests that know that the captions of one picture are not independent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_VALUES = 10_000_000


def _cluster_rows(clusters: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the clusters from 0 in the order of their labels."""
    labels, rows = np.unique(clusters, return_inverse=True)
    return rows, len(labels)


def _sums(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, rows, values)
    return sums


def _draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cluster was drawn, int (some resamples, clusters)."""
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK_VALUES // count)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield generator.multinomial(count, np.full(count, 1 / count), size=size)


def mean_intervals(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int
) -> np.ndarray:
    """Return 95 % percentile bootstrap intervals of the columns' means.

    Whole clusters are drawn with replacement: five captions of one photo stand or fall together,
    and drawing them singly would give intervals that are too narrow.

    Args:
        values: float (queries, columns).
        clusters: (queries,), which queries belong together: the row of their picture.
        resamples: Bootstrap samples; the same for every column, so columns stay paired.
        seed: Of the draws.

    Returns:
        float (columns, 2), lower and upper bounds.
    """
    rows, count = _cluster_rows(clusters)
    sums = _sums(values, rows, count)
    sizes = np.bincount(rows, minlength=count)
    means = [(drawn @ sums) / (drawn @ sizes)[:, None] for drawn in _draws(count, resamples, seed)]
    bounds: np.ndarray = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0).T
    return bounds


def median_interval(
    ranks: np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median of ``ranks`` (queries,)."""
    rows, count = _cluster_rows(clusters)
    ascending = np.argsort(ranks, kind="stable")
    sorted_ranks, sorted_rows = ranks[ascending], rows[ascending]
    medians = []
    for drawn in _draws(count, resamples, seed):
        for times in drawn:
            reached = np.cumsum(times[sorted_rows])
            middle = np.searchsorted(reached, [(reached[-1] + 1) // 2, reached[-1] // 2 + 1])
            medians.append(sorted_ranks[middle].mean())
    low, high = np.percentile(medians, [2.5, 97.5])
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
    rows, count = _cluster_rows(clusters)
    sums = _sums(differences, rows, count)
    observed = np.abs(sums.sum(axis=0))
    generator = np.random.default_rng(seed)
    as_extreme = np.zeros(differences.shape[1], dtype=np.int64)
    block = max(1, _BLOCK_VALUES // count)
    for start in range(0, flips, block):
        size = min(block, flips - start)
        signs = generator.integers(0, 2, size=(size, count), dtype=np.int8) * 2.0 - 1.0
        # equal sums must count as equal whatever the order they were added in
        as_extreme += (np.abs(signs @ sums) >= observed - 1e-9).sum(axis=0)
    return (1 + as_extreme) / (1 + flips)
