"""The text in pictures as a lens: misread words count, words that only share runs do not."""

from __future__ import annotations

from core.search.bm25.picture_text import TextIndex, shared_words
from core.search.query_language.parse import parse_query

TEXTS = ["HETLLO Kitty", "", "Potsdamer Strafe Bulwstalfe", "STOP", "ISTANBUL GRILL stopper"]
IDS = ("a", "b", "c", "d", "e")


def found(query: str, k: int = 5) -> list[tuple[str, tuple[str, ...]]]:
    hits = TextIndex(dict(zip(IDS, TEXTS, strict=True))).search(parse_query(query), k)
    assert [hit.hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    scores = [hit.hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    return [(hit.hit.id, hit.words) for hit in hits]


def test_misread_words_are_found_whatever_their_case_and_accents():
    assert found("hello") == [("a", ("HETLLO",))]
    assert found("pötsdamer straße") == [("c", ("Potsdamer",))]
    assert found("a sign that says stop", 1) == [("d", ("STOP",))]


def test_a_picture_without_nearly_a_word_of_the_query_is_not_found():
    assert found("the potato sat") == []
    assert found("a sign that reads") == [] == found("zebra")
    assert shared_words("grill", TEXTS[4]) == ("GRILL",)
    assert TextIndex({}).search(parse_query("stop"), 5) == []
