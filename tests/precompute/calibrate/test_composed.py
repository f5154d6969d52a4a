"""Queries of parts are measured by what references name: here every word is a direction."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import SourceError
from core.search.index import Index
from precompute.calibrate.composed import picture_words
from precompute.calibrate.composed.picture_words import measure_picture_words
from precompute.calibrate.composed.subtraction import measure_subtraction, table
from tests.core.planted import records

WORDS = ("dog", "grass", "snow")


class Directions:
    """Embeds a text as the sum of its words' directions; "without" says nothing to it."""

    def encode_text(self, texts):
        rows = np.array([[float(word in text) for word in WORDS] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gallery(captions, times=1):
    pictures = [replace(each, references=(text,) * times) for each, text in zip(
        records(len(captions)), captions, strict=True)]  # fmt: skip
    ids = [picture.id for picture in pictures]
    index = Index.build(Directions().encode_text(captions), ids, "flat")
    return SimpleNamespace(records=pictures, exact_index=lambda _: index, row=ids.index)


def test_what_is_subtracted_is_left_out_and_what_is_wanted_kept():
    captions = [*["dog grass", "dog snow"] * 20, *["grass"] * 10, *["snow"] * 10]
    models = SimpleNamespace(sentence=Directions(), clip=Directions())
    found = measure_subtraction(gallery(captions), models)
    plain, without, *subtracted = [each for each in found if each.lens == "clip"]
    assert plain.unwanted > 0.2 and plain.pairs > 0
    assert without.unwanted > plain.unwanted
    assert all(each.unwanted == 0 and each.wanted == each.meant == 1 for each in subtracted)
    assert plain.wanted - plain.unwanted < plain.meant + 1e-9 < plain.wanted
    assert "X -Y at 0.5" in table(found)


def test_a_gallery_without_references_is_refused():
    with pytest.raises(SourceError, match="at least 10 pictures"):
        measure_subtraction(SimpleNamespace(records=records(3)), None)


def test_a_picture_and_a_word_find_both_where_either_alone_finds_one():
    captions = [*["dog grass"] * 12, *["dog"] * 30, *["grass"] * 40, *["snow"] * 10]
    models = SimpleNamespace(sentence=Directions(), clip=Directions())
    shown = gallery(captions, times=2)
    shown.embeddings = lambda _: Directions().encode_text(captions)
    found = {each.how: each for each in measure_picture_words(shown, models) if each.lens == "clip"}
    assert found["the picture"].shows_x == 1 and found["the picture"].both < 0.5
    assert found["Y"].shows_y == 1 and found["Y"].both < 0.5
    assert found["X Y"].both == found["the picture, Y^1"].both == 1
    assert "the picture, Y^0.5" in picture_words.table([*found.values()])


def test_a_gallery_whose_words_never_come_together_is_refused():
    with pytest.raises(SourceError, match="the same two things"):
        measure_picture_words(gallery(["dog", "grass"] * 20), None)
