"""A caption's score is the sum of what its words and the query's words added, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from core.search.explain import ScoreSplit, split_composed, split_score

QUERY = "two dogs playing in the snow"
CAPTIONS = ["a brown dog is running through the snow", "", "an unbelievably fluffy dalmatian, 🐕!"]


@pytest.fixture(scope="module")
def minilm() -> MiniLmEncoder:
    return MiniLmEncoder(PROFILES["mini"].sentence, device="cpu")


def split(encoder: MiniLmEncoder, pooling: str) -> ScoreSplit:
    query, *captions = encoder.encode_tokens([QUERY, *CAPTIONS])
    return split_score(query, captions, pooling)


def assert_adds_up(found: ScoreSplit) -> None:
    by_query = sum(word.share for word in found.query_words) + found.query_rest
    assert by_query == pytest.approx(found.score, abs=1e-4)
    assert sum(each.share for each in found.captions) == pytest.approx(found.score, abs=1e-4)
    for each in found.captions:
        words = sum(word.share for word in each.words)
        assert words + each.rest == pytest.approx(each.share, abs=1e-4)


def test_the_shares_add_up_to_the_score_of_the_mean(minilm):
    found = split(minilm, "mean")
    assert_adds_up(found)
    query, *captions = minilm.encode_text([QUERY, *CAPTIONS])
    mean = np.sum(captions, axis=0)
    assert found.score == pytest.approx(query @ mean / np.linalg.norm(mean), abs=1e-4)


def test_the_best_caption_alone_has_a_share(minilm):
    found = split(minilm, "best")
    assert_adds_up(found)
    query, *captions = minilm.encode_text([QUERY, *CAPTIONS])
    assert [each.share > 0 for each in found.captions] == [True, False, False]
    assert found.score == pytest.approx(max(caption @ query for caption in captions), abs=1e-4)


def test_words_are_whole_and_lie_where_they_stand(minilm):
    found = split(minilm, "mean")
    assert [QUERY[word.start : word.end] for word in found.query_words] == QUERY.split()
    last = [CAPTIONS[2][word.start : word.end] for word in found.captions[2].words]
    assert last[:5] == ["an", "unbelievably", "fluffy", "dalmatian", ","]


def test_the_word_that_both_texts_have_adds_most(minilm):
    query, caption = minilm.encode_tokens(["a red bus", "a bus is parked beside a tree"])
    found = split_score(query, [caption])
    most = max(found.captions[0].words, key=lambda word: word.share)
    assert "a bus is parked beside a tree"[most.start : most.end] == "bus"


def test_a_query_of_parts_adds_up_too_and_what_is_subtracted_speaks_against(minilm):
    texts = ["two dogs playing", "snow", *CAPTIONS[:1]]
    dogs, snow, caption = minilm.encode_tokens(texts)
    rows = minilm.encode_text(texts).astype(np.float64)
    weights = np.array([1.0, -0.5])
    weights /= np.linalg.norm(weights @ rows[:2])
    parts = list(zip(weights, (dogs, snow), strict=True))
    found = split_composed(weights @ rows[:2], parts, [caption])
    assert_adds_up(found)
    assert found.score == pytest.approx(weights @ rows[:2] @ rows[2], abs=1e-4)
    assert found.query_rest == pytest.approx(
        sum(w * split_score(t, [caption]).query_rest for w, t in parts), abs=1e-4
    )
    assert sum(word.share for word in found.query_words if word.end == 4) < 0  # snow
