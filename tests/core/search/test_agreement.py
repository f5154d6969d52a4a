"""Agreement of two rankings against values worked out by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.search.agreement import agreement, rank_biased_overlap, shared_by_chance


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


def test_blind_choices_share_as_many_as_they_do_when_every_choice_is_counted():
    choices = [set(choice) for choice in combinations(range(6), 3)]
    shared = [len(first & second) for first in choices for second in choices]
    assert shared_by_chance(3, 3, 6) == pytest.approx(sum(shared) / len(shared))
    assert shared_by_chance(5, 5, 15) == pytest.approx(5 / 3)
    assert shared_by_chance(3, 3, 3) == 3
    assert shared_by_chance(0, 0, 0) == 0
