"""How sure a caption is, in words for the eye and for a screen reader."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from core.records import UNSURE, Caption, Hit
from core.ui.api import compare_json
from core.ui.parts.results.cards import Standing, detail_of, hit_row
from core.ui.parts.results.sureness import sureness, with_sureness
from tests.planted_app import (
    PICTURES,
    image_id,
    planted_profile,
    shelf_of,
    write_planted_gallery,
)


def spoken(markup: str) -> str:
    return re.sub(r"<[^>]*>", "", markup)


def seen(markup: str) -> str:
    return spoken(re.sub(r'<span class="tl-sr">[^<]*</span>', "", markup))


@pytest.mark.parametrize(
    ("confidence", "flags", "level"),
    [
        (0.714, (), "sure"),
        (0.5, ("retried",), "sure"),
        (0.49, (), "fairly sure"),
        (0.9, ("retried", UNSURE), "unsure"),
        (None, (UNSURE,), "unsure"),
        (None, ("corrected",), ""),
    ],
)
def test_a_card_says_one_of_three_levels_and_no_percentage(confidence, flags, level):
    markup = sureness(Caption("a dog", flags, confidence))
    assert seen(markup) == level
    assert "%" not in markup


def test_a_level_has_its_reason_for_those_who_hear_it():
    assert spoken(sureness(Caption("a dog", (), 0.7))) == "sure of its words"
    markup = sureness(Caption("a dog", (UNSURE,), 0.9))
    assert spoken(markup) == (
        "unsure: the CLIP lens finds that this caption hardly fits its picture"
    )
    assert 'title="Unsure: the CLIP lens' in markup


def test_a_label_says_the_doubt_too():
    assert with_sureness(Caption("a dog", (), 0.2)) == "a dog"
    assert with_sureness(Caption("a dog", (UNSURE,))) == (
        "a dog (unsure: the CLIP lens finds that this caption hardly fits its picture)"
    )


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory):
    """The second picture's caption is unsure."""
    folder = tmp_path_factory.mktemp("doubtful")
    pictures = [
        PICTURES[0],
        replace(PICTURES[1], confidence=0.58, flags=(UNSURE,)),
    ]
    profile = planted_profile(folder)
    write_planted_gallery(folder / "gallery", profile, pictures)
    return shelf_of([folder / "gallery"], profile).entry()


def test_cards_with_a_caption_show_it_and_the_others_have_it_in_their_label(doubtful):
    hits = [Hit(image_id(1), 0.8, 1), Hit(image_id(0), 0.5, 2)]
    row = hit_row(doubtful, hits, Standing(), lens="captions")
    assert [seen(part) for part in re.findall(r'<span class="tl-sure">.*?</button>', row)] == [
        "unsure",
        "sure",
    ]
    row = hit_row(doubtful, hits, Standing(), lens="clip")
    assert "tl-sure" not in row
    assert re.findall(r'alt="([^"]*)"', row) == [
        "a white dog sleeps (unsure: the CLIP lens finds that this caption hardly fits its "
        "picture)",
        "a brown dog runs on the beach",
    ]


def test_the_detail_view_and_the_api_say_it(doubtful):
    detail = detail_of(doubtful, doubtful.gallery.record(image_id(1)), Standing())
    assert detail["confidence"] == "58% sure of its words, on average"
    assert detail["flags"] == [
        "Unsure: the CLIP lens finds that this caption hardly fits its picture."
    ]
    hits = compare_json(doubtful, "dog", 2)["captions"]
    assert {hit["id"]: (hit["unsure"], hit["confidence"]) for hit in hits} == {
        image_id(0): (False, 0.625),
        image_id(1): (True, 0.58),
    }
