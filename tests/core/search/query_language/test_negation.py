"""What is negated in words is offered as a subtraction; what only sounds like it is not."""

from __future__ import annotations

import pytest

from core.search.query_language.negation import without_in_words
from core.search.query_language.parse import parse_query


@pytest.mark.parametrize(
    ("query", "offered"),
    [
        ("a street without cars", "a street -cars"),
        ("a beach with no people", "a beach -people"),
        ("no people", "a photo -people"),
        ("a dog but not a poodle", "a dog -poodle"),
        ("a kitchen without any parked cars in it", 'a kitchen -"parked cars"'),
        ("beach, without people, at sunset", "beach, at sunset -people"),
    ],
)
def test_negation_is_offered_as_a_query_that_subtracts(query, offered):
    assert without_in_words(query) == offered
    assert [part.weight < 0 for part in parse_query(offered).parts] == [False, True]


@pytest.mark.parametrize(
    "query",
    ["a no parking sign", "no smoking", "a note on a wall", "a piano", "not only dogs", "no"],
)
def test_other_words_are_left_alone(query):
    assert without_in_words(query) is None
