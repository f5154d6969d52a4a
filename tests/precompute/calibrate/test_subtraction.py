"""Subtraction is measured by what references name: here every word is a direction of its own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import SourceError
from core.search.index import Index
from precompute.calibrate.subtraction import measure_subtraction, table
from tests.core.planted import records

WORDS = ("dog", "grass", "snow")


class Directions:
    """Embeds a text as the sum of its words' directions; "without" says nothing to it."""

    def encode_text(self, texts):
        rows = np.array([[float(word in text) for word in WORDS] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gallery(captions):
    pictures = [replace(each, references=(text,)) for each, text in zip(
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
    assert all(each.unwanted == 0 and each.wanted == 1 for each in subtracted)
    assert "X -Y at 0.5" in table(found)


def test_a_gallery_without_references_is_refused():
    with pytest.raises(SourceError, match="at least 10 pictures"):
        measure_subtraction(SimpleNamespace(records=records(3)), None)
