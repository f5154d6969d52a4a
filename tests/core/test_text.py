"""Text from outside is cleaned the same way everywhere, in a time linear in its length."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UploadError
from core.images.file_names import shown_name
from core.search.query import normalise_query
from core.text import composed, one_line, words_of
from core.uploads.limits import checked_caption

MARKS = "\u0301\u0316\u0345"
SECONDS = 0.5
"""Sorting the marks below takes minutes if all are sorted."""


@pytest.mark.parametrize("mark", [MARKS, "\u0f73", "\u0344", "e\u0301" + MARKS * 100])
def test_time_grows_with_the_length_of_a_run_of_marks_not_with_its_square(mark):
    text = "a" + mark * (300_000 // len(mark))
    started = time.process_time()
    for clean in (shown_name, lambda text: normalise_query(text, 400_000), composed):
        assert clean(text)
    with pytest.raises(UploadError, match="at most 500"):
        checked_caption(text)
    assert time.process_time() - started < 8 * SECONDS


def test_a_name_of_combining_marks_costs_nothing():
    started = time.process_time()
    name = shown_name("a" + MARKS * 100_000 + ".jpg")
    assert time.process_time() - started < SECONDS
    assert name.endswith(".jpg")
    assert len(name) <= 120


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(MARKS + "ae\u0f73\u0958"))))
def test_composed_is_nfc_and_stays_as_it_is(text):
    once = composed(text)
    assert composed(once) == once
    assert unicodedata.is_normalized("NFC", once)
    if len(text) < 10:
        assert once == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  my dog\n Rex ", "my dog Rex"),
        ("cafe\u0301", "caf\u00e9"),
        ("half a \ud83d dog", "half a dog"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 at the beach",) * 2,
    ],
)
def test_a_caption_is_cleaned_as_a_query_is(typed, kept):
    assert checked_caption(typed) == normalise_query(typed) == one_line(typed) == kept


def test_words_are_of_any_script_with_their_apostrophes():
    assert words_of("The dogs' T-shirt isn’t 2 sizes too GROß.") == (
        *("the", "dogs", "t", "shirt", "isn’t", "2", "sizes", "too", "groß"),
    )


@pytest.mark.parametrize("text", [None, 7, ["a dog"]])
def test_a_caption_that_is_no_text(text):
    with pytest.raises(UploadError, match="must be a text"):
        checked_caption(text)
