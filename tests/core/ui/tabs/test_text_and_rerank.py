"""Beyond both lenses: text in the pictures on demand, and CLIP's first pictures reranked."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from core.errors import ModelError, QueryError
from core.models.choose import with_matcher
from core.models.profiles import Models
from core.models.sentence.encoder import TokenEmbeddings
from core.ui.api import compare_json
from core.ui.galleries.shelf import Shelf
from core.ui.tabs.compare import answer
from core.ui.tabs.text_and_rerank import rerank_answer
from core.ui.why import why_json
from tests.planted_app import (
    PICTURES,
    WordsEncoder,
    image_id,
    planted_profile,
    write_planted_gallery,
)
from tests.tiny_matchers import save_tiny_matcher

SIGNS = {1: "STOP <b>", 4: "Route 27 Harbour", 7: "PHILLIPS"}
ID = re.compile(r"&quot;id&quot;: &quot;([0-9a-f]{16})&quot;")


class Explained(WordsEncoder):
    """An encoder of one token a text, and of no patches."""

    def encode_tokens(self, texts):
        return [TokenEmbeddings(row[np.newaxis], (None,), ()) for row in self.encode_text(texts)]

    def explain(self, image, texts):
        raise ModelError("No patches here.")


@pytest.fixture(scope="module")
def signs(tmp_path_factory) -> Shelf:
    folder = tmp_path_factory.mktemp("signs")
    profile = planted_profile(folder)
    pictures = [replace(each, text=SIGNS.get(row, "")) for row, each in enumerate(PICTURES)]
    plain = write_planted_gallery(folder / "plain", profile, PICTURES[:3], "plain")
    folders = [write_planted_gallery(folder / "g", profile, pictures), plain]
    models = Models(
        profile, sentence=Explained(profile.sentence), clip=Explained(profile.clip), device="cpu"
    )
    return Shelf.open(folders, profile, models, max_query_chars=1000)


def section(shown: str, label: str) -> str:
    return shown.partition(f'aria-label="{label}"')[2].partition("</section>")[0]


def test_text_in_the_pictures_is_searched_when_asked_for_and_offered_where_there_is_some(signs):
    asked = answer(signs, "the philips stop", 5, "planted", more="words")
    assert 'data-more="words,text" data-words="the philips stop"' in asked
    plain = answer(signs, "stop", 3, "plain", more="words,text")
    assert 'data-more=""' in plain and "text" not in re.findall('data-more="([^"]*)"', plain)
    assert "tl-further" not in answer(signs, "stop", 3, "planted")
    shown = answer(signs, "the philips stop", 5, "planted", more="words,text")
    assert re.findall('data-more="([^"]*)"', shown) == ["text", "words"]  # each hides its row
    row = section(shown, "Text in the pictures")
    assert sorted(ID.findall(row)) == sorted([image_id(1), image_id(7)])
    assert re.findall(r"it reads </span>([^<]*)<", row) == ["PHILLIPS", "STOP"]
    none = section(answer(signs, "zebra", 5, "planted", more="text"), "Text in the pictures")
    assert "None of these words" in none and "<ol" not in none


def test_text_counts_in_best_of_both_while_its_row_is_shown_and_where_the_api_is_told(signs):
    # No lens knows "harbour".
    with_text = section(answer(signs, "harbour", 3, "planted", more="text"), "Best of both")
    assert ID.findall(with_text)[0] == image_id(4) and "and text" in with_text
    without = section(answer(signs, "harbour", 3, "planted", more=""), "Best of both")
    assert ID.findall(without)[0] != image_id(4) and "and text" not in without
    entry = signs.entry("planted")
    first = compare_json(entry, "harbour", 3, text=True)["fused"][0]
    assert (first["id"], first["text_rank"]) == (image_id(4), 1)
    filtered = compare_json(entry, "harbour", 3, filters="-caption:bus", text=True)["fused"]
    assert filtered and not any("text_rank" in hit for hit in filtered)
    second = section(answer(signs, "harbour", 3, "planted", start=3, more="text"), "Best of both")
    assert image_id(4) not in ID.findall(second)  # it is on the first page
    with pytest.raises(QueryError, match="was not read"):
        compare_json(signs.entry("plain"), "harbour", 3, text=True)


def test_why_says_which_words_can_be_read(signs):
    entry = signs.entry("planted")
    read = why_json(entry, "a sign that says harbor 27 north 3", image_id(4))["text"]
    expected = {"text": "Route 27 Harbour", "confidence": 0.9, "words": ["27", "Harbour"]}
    assert read == {**expected, "added": 2.0}  # half of 4: so many of the four words are there
    assert why_json(entry, "stop", image_id(0))["text"] is None


def test_reranking_shows_the_same_pictures_before_and_after_in_the_models_order(signs, tmp_path):
    profile = with_matcher(signs.profile, str(save_tiny_matcher(tmp_path / "tiny-itm", "blip")))
    models = Models(
        profile,
        device="cpu",
        sentence=WordsEncoder(profile.sentence),
        clip=WordsEncoder(profile.clip),
    )
    folder = signs.entry("planted").gallery.folder
    shelf = Shelf.open([folder], profile, models, max_query_chars=1000)
    assert "Rerank CLIP’s first 12 by tiny-itm" in answer(shelf, "two dogs", 5, "", more="")
    shown = rerank_answer(shelf, "two dogs", "")
    before, after = (ID.findall(section(shown, name)) for name in ("Before", "After"))
    assert before == [hit.id for hit in shelf.entry().service.by_text("two dogs", 20, "clip").hits]
    assert after != before and sorted(after) == sorted(before)
    chances = [float(score) for score in re.findall(r"</span>(\d\.\d\d)<", section(shown, "After"))]
    assert chances == sorted(chances, reverse=True) and chances[0] > chances[-1]
