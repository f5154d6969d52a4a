"""Intervals and p-values against scipy's, and against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from precompute.evaluate.resampling import mean_intervals, median_interval, paired_p_values


@pytest.fixture
def values():
    return np.random.default_rng(0).random((300, 2)) < np.array([0.4, 0.7])


def test_intervals_are_those_of_scipys_percentile_bootstrap(values):
    found = mean_intervals(values, np.arange(300), resamples=4000, seed=1)
    for column in range(2):
        expected = stats.bootstrap(
            (values[:, column].astype(float),),
            np.mean,
            n_resamples=4000,
            method="percentile",
            rng=2,
        ).confidence_interval
        np.testing.assert_allclose(found[column], expected, atol=0.006)


def test_captions_of_one_picture_stand_or_fall_together():
    pictures = np.random.default_rng(3).random(200) < 0.5
    queries = np.repeat(pictures, 5)[:, None]
    clusters = np.repeat(np.arange(200), 5)
    together = mean_intervals(queries, clusters, resamples=3000, seed=0)[0]
    singly = mean_intervals(queries, np.arange(1000), resamples=3000, seed=0)[0]
    assert np.ptp(together) == pytest.approx(np.sqrt(5) * np.ptp(singly), rel=0.08)


def test_a_cluster_counts_as_often_as_it_has_queries():
    values = np.array([[1.0], [1.0], [1.0], [0.0]])
    low, high = mean_intervals(values, np.array([7, 7, 7, -1]), resamples=500, seed=0)[0]
    assert (low, high) == (0, 1)
    repeated = mean_intervals(values, np.array([7, 7, 7, -1]), resamples=500, seed=0)
    assert repeated.tolist() == [[0, 1]]


def test_median_interval_is_that_of_scipy():
    ranks = np.random.default_rng(4).geometric(0.1, size=400)
    found = median_interval(ranks, np.arange(400), resamples=3000, seed=0)
    expected = stats.bootstrap(
        (ranks,), np.median, n_resamples=3000, method="percentile", rng=1
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.51)


def test_p_values_are_those_of_scipys_permutation_test():
    generator = np.random.default_rng(5)
    differences = generator.normal([0.0, 0.15, 1.0], 1.0, size=(120, 3))
    found = paired_p_values(differences, np.arange(120), flips=9999, seed=0)
    for column in range(2):
        expected = stats.permutation_test(
            (differences[:, column],),
            np.mean,
            permutation_type="samples",
            n_resamples=9999,
            rng=1,
        ).pvalue
        assert found[column] == pytest.approx(expected, abs=0.02)
    assert found[2] == pytest.approx(1 / 10_000)


def test_no_difference_is_no_evidence():
    nothing = np.zeros((50, 1))
    assert paired_p_values(nothing, np.arange(50), flips=999, seed=0).tolist() == [1.0]


def test_flipping_whole_pictures_is_more_careful_than_flipping_queries():
    generator = np.random.default_rng(6)
    differences = np.repeat(generator.normal(0.12, 1, size=100), 5)[:, None]
    together = paired_p_values(differences, np.repeat(np.arange(100), 5), flips=5000, seed=0)
    singly = paired_p_values(differences, np.arange(500), flips=5000, seed=0)
    assert together[0] > singly[0]


def test_the_same_seed_gives_the_same_numbers(values):
    clusters = np.arange(300) // 3
    one, other = (mean_intervals(values, clusters, resamples=200, seed=9) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_one_picture_alone_has_no_spread():
    ranks, alone = np.array([1.0, 4.0, 2.0]), np.zeros(3, int)
    found = mean_intervals(ranks[:, None], alone, resamples=50, seed=0)
    np.testing.assert_allclose(found, [[7 / 3, 7 / 3]])
    assert median_interval(ranks, alone, resamples=50, seed=0) == (2.0, 2.0)
    assert paired_p_values(ranks[:, None], alone, flips=50, seed=0) == [1.0]
