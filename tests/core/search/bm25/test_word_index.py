"""BM25 over captions: shared words alone count, weighed and subtracted as the query says."""

from __future__ import annotations

import numpy as np

from core.search.bm25.word_index import WordIndex
from core.search.query_language.parse import parse_query

CAPTIONS = ["a dog runs on grass", "a dog in the snow", "", "a man rides a horse", "dogs on grass"]
IDS = ("a", "b", "c", "d", "e")


def found(query: str, among: np.ndarray | None = None) -> list[str]:
    hits = WordIndex(CAPTIONS).search(parse_query(query), IDS, 5, among)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [hit.id for hit in hits]


def test_a_picture_without_a_shared_word_is_not_found():
    assert found("a dog on the grass") == ["e", "a", "b"]
    assert found("zebra") == [] == found("of the")


def test_subtracted_words_and_filters_count():
    assert found("dog -grass")[0] == "b"
    assert found("dog", np.array([True, False, True, True, False])) == ["a"]
    assert WordIndex([]).search(parse_query("dog"), (), 5) == []
