"""Ranks by counting and by sorting agree, whatever the size of a block."""

from __future__ import annotations

import numpy as np
import pytest

from precompute import rankings
from precompute.rankings import (
    Relevant,
    blocks,
    bm25_scorer,
    dense_scorer,
    order,
    random_scorer,
    ranks_of,
)
from tests.core.planted import unit_rows


def sorted_with_ties(scores: np.ndarray) -> np.ndarray:
    return np.stack([np.lexsort((np.arange(len(row)), -row)) for row in scores])


@pytest.fixture
def scores():
    # a few values only, so that every row is full of ties
    return np.random.default_rng(0).integers(0, 6, size=(50, 40)).astype(np.float32)


@pytest.mark.parametrize("depth", [1, 7, 39, 40, 1000])
def test_order_is_best_first_with_ties_in_picture_order(scores, depth):
    distinct = scores + np.random.default_rng(1).random(scores.shape, dtype=np.float32) / 2
    np.testing.assert_array_equal(order(distinct, depth), sorted_with_ties(distinct)[:, :depth])
    expected = np.take_along_axis(scores, sorted_with_ties(scores), axis=1)[:, :depth]
    found = order(scores, depth)
    np.testing.assert_array_equal(np.take_along_axis(scores, found, axis=1), expected)
    for row, pictures in enumerate(found):
        for one, other in zip(pictures, pictures[1:], strict=False):
            assert scores[row, one] > scores[row, other] or one < other


def test_a_rank_is_the_place_in_the_sorted_row_ties_included(scores):
    images = np.random.default_rng(2).integers(0, 40, size=50)
    placed = sorted_with_ties(scores)
    expected = [
        int(np.flatnonzero(row == image)[0]) + 1 for row, image in zip(placed, images, strict=True)
    ]
    np.testing.assert_array_equal(ranks_of(scores, images), expected)


def test_the_best_of_several_relevant_pictures_counts_in_every_block(scores):
    generator = np.random.default_rng(4)
    judged = [
        {int(image): 1 for image in generator.permutation(40)[: 1 + row % 5]} for row in range(50)
    ]
    relevant = Relevant.of(judged)
    placed = sorted_with_ties(scores)
    expected = [
        min(int(np.flatnonzero(placed[row] == image)[0]) + 1 for image in images)
        for row, images in enumerate(judged)
    ]
    for cut in ([0, 50], [0, 1, 13, 50]):
        parts = [slice(low, high) for low, high in zip(cut, cut[1:], strict=False)]
        found = np.concatenate([relevant.best_rank(scores[part], part) for part in parts])
        np.testing.assert_array_equal(found, expected)
        both = [relevant.best_scores(scores[part], part) for part in parts]
        right = np.concatenate([each[0] for each in both])
        wrong = np.concatenate([each[1] for each in both])
        for row, images in enumerate(judged):
            others = [scores[row, image] for image in range(40) if image not in images]
            assert right[row] == max(scores[row, image] for image in images)
            assert wrong[row] == max(others)


def test_equal_captions_tie_although_the_products_differ_in_their_last_bits():
    images = np.repeat(unit_rows(5, 384), 3, axis=0)
    queries = unit_rows(30, 384, seed=1)
    whole = dense_scorer(queries, images)(slice(0, 30))
    for row in range(30):
        np.testing.assert_array_equal(
            dense_scorer(queries, images)(slice(row, row + 1))[0], whole[row]
        )
    np.testing.assert_array_equal(whole[:, 0::3], whole[:, 1::3])
    np.testing.assert_allclose(whole, queries.astype(np.float64) @ images.T, atol=1e-6)


def test_blocks_cover_every_query_once_and_stay_small(monkeypatch):
    found = list(blocks(25_000, 100_000))
    assert found[0].start == 0 and found[-1].stop == 25_000
    assert all(one.stop == other.start for one, other in zip(found, found[1:], strict=False))
    assert max(part.stop - part.start for part in found) * 100_000 * 4 <= 24_000_000
    monkeypatch.setattr(rankings, "_BLOCK_BYTES", 1)
    assert len(list(blocks(3, 10))) == 3


def test_random_scores_depend_on_the_seed_and_the_query_not_on_the_block():
    whole = random_scorer(20, seed=5)(slice(0, 8))
    np.testing.assert_array_equal(random_scorer(20, seed=5)(slice(3, 5)), whole[3:5])
    assert (random_scorer(20, seed=6)(slice(0, 8)) != whole).any()


def test_bm25_ranks_by_rare_shared_words_whatever_their_form():
    captions = [
        "a dog runs on the grass",
        "two dogs are running after a frisbee",
        "a man rides a horse",
        "a dog sleeps",
    ]
    queries = ["dog with frisbees", "the horses", "xylophone", "of the and"]
    scores = bm25_scorer(queries, captions)(slice(0, 4))
    assert order(scores, 4)[0].tolist()[0] == 1
    assert order(scores, 1)[1].tolist() == [2]
    assert scores[1, 2] > 0 and scores[1, [0, 1, 3]].tolist() == [0, 0, 0]
    assert not scores[2:].any()
    np.testing.assert_array_equal(bm25_scorer(queries, captions)(slice(1, 2)), scores[1:2])


def test_bm25_over_captions_without_a_word_scores_nothing():
    assert not bm25_scorer(["a dog"], ["", "?"])(slice(0, 1)).any()
