from __future__ import annotations

import html
import json
import re

import pytest

from core.records import Hit
from core.ui.cards import Standing, card, detail_of, hit_row, safe_link
from tests.planted_app import HOSTILE_CAPTION, image_id


def carried(markup: str) -> list[dict]:
    """What the cards carry for the detail view, as the browser reads it."""
    return [json.loads(html.unescape(d)) for d in re.findall(r'data-picture="([^"]*)"', markup)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://example.org/a?b=c", "https://example.org/a?b=c"),
        (" http://example.org ", "http://example.org"),
        ("javascript:alert(1)", ""),
        ("JAVASCRIPT:alert(1)", ""),
        ("data:text/html,x", ""),
        ("//example.org", ""),
        ("https://", ""),
        ("http://[broken", ""),
        (None, ""),
    ],
)
def test_only_web_addresses_become_links(address, expected):
    assert safe_link(address) == expected


def test_what_a_model_wrote_is_never_markup(shelf):
    markup = card(shelf.entry(), image_id(7), Standing(), caption=True)
    assert "<img src=x" not in markup
    assert "<b>" not in markup
    assert markup.count("<img ") == 1
    assert html.escape(HOSTILE_CAPTION) in markup
    (detail,) = carried(markup)
    assert detail["caption"] == detail["alt"] == HOSTILE_CAPTION
    assert detail["source"] == ""


def test_the_alternative_text_is_the_caption_or_the_name(shelf):
    assert 'alt="a red bus in the street"' in card(shelf.entry(), image_id(4), Standing())
    assert 'alt="picture-9.jpg"' in card(shelf.entry(), image_id(9), Standing())


def test_the_detail_has_all_that_is_known(shelf):
    entry = shelf.entry()
    hits = {"captions": {image_id(2): Hit(image_id(2), 0.456, 3)}, "clip": {}}
    detail = detail_of(entry, entry.gallery.record(image_id(2)), Standing("dog", hits))
    assert detail["licence"] == "CC BY 2.0"
    assert detail["source"] == "https://example.org/photo/3"
    assert detail["size"] == "640 × 480 pixels"
    assert detail["ranks"] == [
        {"lens": "captions", "title": "Caption lens", "place": "3rd of 12 · score 0.46"},
        {"lens": "clip", "title": "CLIP lens", "place": "not among its first 12"},
    ]
    first = detail_of(entry, entry.gallery.record(image_id(0)), Standing())
    assert first["confidence"] == "62% sure of its words, on average"
    assert first["ranks"] == []
    flagged = detail_of(entry, entry.gallery.record(image_id(6)), Standing())
    assert len(flagged["flags"]) == 2
    assert flagged["flags"][1] == "The caption repeats itself."


def test_a_bar_is_as_long_as_the_score_is_of_the_best(shelf):
    hits = [Hit(image_id(0), 0.8, 1), Hit(image_id(1), 0.2, 2), Hit(image_id(2), -0.1, 3)]
    row = hit_row(shelf.entry(), hits, Standing(), lens="clip")
    assert re.findall(r"width:(\d+)%", row) == ["100", "25", "4"]
    assert re.findall(r"</span>(-?\d\.\d\d)</span>", row) == ["0.80", "0.20", "-0.10"]
    assert [detail["id"] for detail in carried(row)] == [hit.id for hit in hits]


def test_captions_stand_under_the_lens_that_reads_them_only(shelf):
    hits = [Hit(image_id(0), 0.8, 1)]
    assert "tl-caption" in hit_row(shelf.entry(), hits, Standing(), lens="captions")
    assert "tl-caption" not in hit_row(shelf.entry(), hits, Standing(), lens="clip")
