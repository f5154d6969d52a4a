"""What is syntax becomes parts, what is none stays words, and what is malformed is told."""

from __future__ import annotations

import pytest

from core.errors import QueryError
from core.search.query_language.parse import SUBTRACTED, parse_query

ID, OTHER = "0123456789abcdef", "fedcba9876543210"


def parts(query: str) -> list[tuple[str, float]]:
    return [(part.text or part.picture, part.weight) for part in parse_query(query).parts]


@pytest.mark.parametrize(
    "query",
    ["a t-shirt, black-and-white", 'a sign saying "stop"', "a - b", "--verbose", "-5 degrees"]
    + [
        "dog ^2",
        'dog -"unclosed grass',
        "-and- x",
        "like: this",
        '"like:xyz"',
        '""^2',
        "10:30",
        "^_^",
        "犬-猫",
    ],
)
def test_words_without_syntax_stay_one_part_as_typed(query):
    parsed = parse_query(query)
    assert parsed.is_plain
    assert parts(query) == [(query, 1.0)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("dog -grass", [("dog", 1), ("grass", -SUBTRACTED)]),
        ("dog −grass", [("dog", 1), ("grass", -SUBTRACTED)]),
        ("a -t-shirt shop", [("a shop", 1), ("t-shirt", -SUBTRACTED)]),
        ('"red bus"^2 at night', [("at night", 1), ("red bus", 2)]),
        ('dog -"tall grass"^2, outdoors', [("dog outdoors", 1), ("tall grass", -2 * SUBTRACTED)]),
        (f"at night like:{ID} -like:{OTHER}", [("at night", 1), (ID, 1), (OTHER, -SUBTRACTED)]),
        ("犬 -猫", [("犬", 1), ("猫", -SUBTRACTED)]),
    ],
)
def test_syntax_becomes_parts(query, expected):
    assert parts(query) == expected
    assert not parse_query(query).is_plain


def test_a_part_knows_its_words_and_how_to_be_taken_out():
    query = 'dog -"tall grass"^2, on the beach'
    words, grass = parse_query(query).parts
    assert [query[start:end] for start, end in grass.words_at] == ["tall grass"]
    assert grass.label == "−tall grass ×2"
    assert parse_query(query).without(grass) == "dog, on the beach"
    assert parse_query(query).without(words) == '-"tall grass"^2'


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("-grass", "cannot only leave out"),
        (f"-like:{ID}", "cannot only leave out"),
        ("like:nothing", "More like this” writes; 'nothing' is none"),
        (f"dog -like:{ID}0", f"'{ID}0' is none"),
        ("dog^99", "between 0.1 and 10; got 99"),
        ("dog^0", "between 0.1 and 10; got 0"),
        (" ".join(f"-w{'x' * n}" for n in range(8)) + " dog", "at most 8 parts; this one has 9"),
    ],
)
def test_what_makes_no_query_is_told_in_a_sentence(query, sentence):
    with pytest.raises(QueryError, match=sentence):
        parse_query(query)
