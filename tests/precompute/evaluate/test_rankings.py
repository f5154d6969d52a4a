"""Ranks by counting and by sorting agree, whatever the size of a block."""

from __future__ import annotations

import numpy as np
import pytest

from precompute.evaluate import rankings
from precompute.evaluate.rankings import (
    Relevant,
    blocks,
    bm25_scorer,
    dense_scorer,
    order,
    random_scorer,
    ranks_of,
    scored,
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
    expected = sorted_with_ties(scores)[:, :depth]
    np.testing.assert_array_equal(order(scores, depth), expected)
    distinct = scores + np.random.default_rng(1).random(scores.shape, dtype=np.float32) / 2
    np.testing.assert_array_equal(order(distinct, depth), sorted_with_ties(distinct)[:, :depth])


def test_a_rank_is_the_place_in_the_sorted_row_ties_included(scores):
    images = np.random.default_rng(2).integers(0, 40, size=50)
    placed = sorted_with_ties(scores)
    expected = [
        int(np.flatnonzero(row == image)[0]) + 1 for row, image in zip(placed, images, strict=True)
    ]
    np.testing.assert_array_equal(ranks_of(scores, np.arange(50), images), expected)
    np.testing.assert_array_equal(
        ranks_of(scores, np.array([3, 3, 49]), images[[3, 3, 49]]),
        [expected[3], expected[3], expected[49]],
    )


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
        ranks = [ranks_of(scores[part], *relevant.inside(part)) for part in parts]
        best = [relevant.best(own, part) for own, part in zip(ranks, parts, strict=True)]
        np.testing.assert_array_equal(np.concatenate(best), expected)
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
        (alone,) = dense_scorer(queries, images)(slice(row, row + 1))
        np.testing.assert_array_equal(alone[0::3], alone[1::3])
        np.testing.assert_array_equal(alone[0::3], alone[2::3])
        # On the edge between two rounded values another block may fall on the other side, together.
        np.testing.assert_allclose(alone, whole[row], atol=1.5e-6, rtol=0)
    np.testing.assert_array_equal(whole[:, 0::3], whole[:, 1::3])
    np.testing.assert_array_equal(whole[:, 0::3], whole[:, 2::3])
    np.testing.assert_allclose(whole, queries.astype(np.float64) @ images.T, atol=1e-6)


def test_blocks_cover_every_query_once_and_stay_small():
    found = list(blocks(7, 25_000, 100_000, 52_000_000))
    assert found[0].start == 7 and found[-1].stop == 25_000
    assert all(one.stop == other.start for one, other in zip(found, found[1:], strict=False))
    assert max(part.stop - part.start for part in found) * 100_000 * 4 <= 52_000_000
    assert len(list(blocks(0, 3, 10, 1))) == 3


def test_the_scores_that_are_yielded_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(rankings, "PART_BYTES", 3 * 4 * 15)
    lenses = [dense_scorer(unit_rows(50, 8, seed), unit_rows(15, 8, 9)) for seed in (1, 2)]
    parts = list(scored(lenses, 50, 15))
    assert [part.stop - part.start for part, _ in parts] == [3] * 16 + [2]
    for lens, whole in enumerate(lenses):
        found = np.concatenate([scores[lens] for _, scores in parts])
        np.testing.assert_array_equal(found, whole(slice(0, 50)))


def test_the_places_of_relevant_pictures_end_at_the_depth():
    relevant = Relevant.of([{4: 1}, {2: 3, 9: 1, 1: 2}, {0: 1}])
    found = relevant.placed(np.array([1000, 7, 1001, 2, 50_000]))
    assert found == [((1000, 1),), ((0, 1), (2, 2), (7, 3)), ((0, 1),)]


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


def test_bm25_scores_are_those_that_bm25s_gives_one_query_at_a_time():
    import bm25s
    import Stemmer

    words = ["dog", "cat", "man", "beach", "street", "red", "runs", "jumps", "horse", "snow"]
    dice = np.random.default_rng(0)
    captions = [" ".join(dice.choice(words, 7)) for _ in range(200)]
    queries = [" ".join(dice.choice([*words, "zebra"], 6)) for _ in range(30)]
    found = bm25_scorer(queries, captions)(slice(0, 30))

    def split(texts):
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, "en", stemmer=stemmer, return_ids=False, show_progress=False)

    index = bm25s.BM25()
    index.index(split(captions), show_progress=False)
    expected = [index.get_scores(query) for query in split(queries)]
    np.testing.assert_array_equal(found, expected)


def test_bm25_over_captions_without_a_word_scores_nothing():
    assert not bm25_scorer(["a dog"], ["", "?"])(slice(0, 1)).any()
