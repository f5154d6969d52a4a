"""Fusion and agreement against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.records import Hit
from core.search.fusion import agreement, rank_biased_overlap, rrf, weighted_sum


def ranking(*scored):
    return [Hit(id=id_, score=score, rank=r) for r, (id_, score) in enumerate(scored, start=1)]


CAPTIONS = ranking(("a", 0.9), ("b", 0.5), ("c", 0.1))
CLIP = ranking(("b", 0.30), ("d", 0.28), ("a", 0.20))


def test_rrf_sums_reciprocal_ranks():
    fused = rrf({"captions": CAPTIONS, "clip": CLIP})
    assert [(hit.id, hit.rank) for hit in fused] == [("b", 1), ("a", 2), ("d", 3), ("c", 4)]
    assert [hit.score for hit in fused] == pytest.approx(
        [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63]
    )
    assert fused[0].sources == {"captions": CAPTIONS[1], "clip": CLIP[0]}
    assert fused[2].sources == {"clip": CLIP[1]}


def test_rrf_with_a_small_k_favours_first_ranks():
    both_third = {
        "captions": ranking(("a", 3), ("b", 2), ("c", 1)),
        "clip": ranking(("d", 3), ("e", 2), ("c", 1)),
    }
    assert rrf(both_third, k=60)[0].id == "c"
    assert [hit.id for hit in rrf(both_third, k=0)] == ["a", "d", "c", "b", "e"]


def test_ties_go_to_the_better_rank_then_to_the_id():
    fused = rrf({"captions": ranking(("z", 1), ("m", 0)), "clip": ranking(("b", 1), ("a", 0))})
    assert [hit.id for hit in fused] == ["b", "z", "a", "m"]
    mirrored = rrf({"captions": ranking(("z", 1), ("b", 0)), "clip": ranking(("b", 1), ("z", 0))})
    assert [hit.id for hit in mirrored] == ["b", "z"]
    assert mirrored[0].score == mirrored[1].score


def test_fusions_of_nothing_are_empty():
    for fuse in (rrf, weighted_sum):
        assert fuse({}) == []
        assert fuse({"captions": [], "clip": []}) == []
        assert [hit.id for hit in fuse({"captions": CAPTIONS, "clip": []})] == ["a", "b", "c"]


def test_weighted_sum_of_minmax_scores():
    fused = weighted_sum({"captions": CAPTIONS, "clip": CLIP}, {"captions": 3, "clip": 1})
    # captions: a 1, b 0.5, c 0; clip: b 1, d 0.8, a 0; shares 0.75 and 0.25.
    assert [(hit.id, hit.score) for hit in fused] == [
        ("a", pytest.approx(0.75)),
        ("b", pytest.approx(0.625)),
        ("d", pytest.approx(0.2)),
        ("c", pytest.approx(0.0)),
    ]


def test_weighted_sum_of_z_scores():
    fused = weighted_sum(
        {"x": ranking(("a", 5.0), ("b", 1.0)), "y": ranking(("c", 9.0), ("a", 7.0))},
        normalisation="zscore",
    )
    # x: a 1, b -1, c lacks: -1; y: c 1, a -1, b lacks: -1.
    assert [(hit.id, hit.score) for hit in fused] == [("a", 0.0), ("c", 0.0), ("b", -1.0)]


def test_equal_scores_normalise_without_dividing_by_zero():
    flat = ranking(("a", 0.4), ("b", 0.4))
    assert [hit.score for hit in weighted_sum({"x": flat})] == [1.0, 1.0]
    assert [hit.score for hit in weighted_sum({"x": flat}, normalisation="zscore")] == [0.0, 0.0]


@pytest.mark.parametrize("weights", [{"x": -1.0}, {"x": 0.0}, {"y": 1.0}, {"x": float("nan")}])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        weighted_sum({"x": CAPTIONS}, weights)


@pytest.mark.parametrize(
    ("first", "second", "p", "expected"),
    [
        ("abc", "abc", 0.9, 1.0),
        ("abc", "def", 0.9, 0.0),
        # overlaps 1, 1, 3: (0.1 / 0.9) (0.9 + 0.81 / 2 + 0.729) + 0.729
        ("abc", "acb", 0.9, 0.955),
        # overlaps 0, 1, 2: 0.25 / 2 + (2 / 3) 0.125 + (2 / 3) 0.125
        ("abc", "bda", 0.5, 7 / 24),
        # lengths 2 and 4, overlaps 0, 2, 2, 2: seen 1.62405, unseen 0.57105, tail 0.6561
        ("ab", "bacd", 0.9, 0.9),
        # a prefix agrees entirely as far as it goes
        ("ab", "abcd", 0.9, 1.0),
        ("", "abc", 0.9, 0.0),
        ("", "", 0.9, 1.0),
    ],
)
def test_rank_biased_overlap_by_hand(first, second, p, expected):
    assert rank_biased_overlap(first, second, p) == pytest.approx(expected, abs=1e-12)
    assert rank_biased_overlap(second, first, p) == pytest.approx(expected, abs=1e-12)


def test_rank_biased_overlap_weighs_the_first_ranks_more():
    same_first = rank_biased_overlap("abcde", "axyzw")
    same_last = rank_biased_overlap("abcde", "vwxye")
    assert same_first > same_last > 0


rankings = st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=12)


@given(rankings, rankings, st.floats(0.05, 0.99))
def test_agreement_is_symmetric_and_bounded(first, second, p):
    forward, backward = agreement(first, second, p), agreement(second, first, p)
    assert forward.rbo == pytest.approx(backward.rbo)
    assert (forward.overlap, forward.jaccard) == (backward.overlap, backward.jaccard)
    for value in (forward.overlap, forward.jaccard, forward.rbo):
        assert -1e-9 <= value <= 1 + 1e-9
    assert (forward.shared == 0) == (forward.rbo == 0) or not (first or second)


@given(rankings, st.floats(0.05, 0.99))
def test_a_ranking_agrees_with_itself(ranked, p):
    itself = agreement(ranked, ranked, p)
    assert (itself.overlap, itself.jaccard) == (1.0, 1.0)
    assert itself.rbo == pytest.approx(1.0)


def test_agreement_counts():
    three_of_five = agreement("abcde", "cbaxy")
    assert (three_of_five.shared, three_of_five.depth) == (3, 5)
    assert (three_of_five.overlap, three_of_five.jaccard) == (0.6, pytest.approx(3 / 7))


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_arguments_outside_their_range_are_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        rank_biased_overlap("ab", "ab", p)
    with pytest.raises(ValueError, match="twice"):
        rank_biased_overlap("aa", "ab")
    with pytest.raises(ValueError, match="0 or more"):
        rrf({"x": CAPTIONS}, k=-1)
