from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import pytest

from core.records import Caption, FusedHit, Hit
from core.ui.api import compare_json
from core.ui.parts.results.cards import (
    Standing,
    card,
    detail_of,
    fill_row,
    fused_row,
    hit_row,
    safe_link,
    score_facts,
)
from tests.planted_app import (
    HOSTILE_CAPTION,
    PICTURES,
    image_id,
    planted_profile,
    shelf_of,
    write_planted_gallery,
)


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
    others = {image_id(row): Hit(image_id(row), 0.3, row) for row in range(3, 12)}
    hits = {"captions": {image_id(2): Hit(image_id(2), 0.456, 3)}, "clip": others}
    detail = detail_of(entry, entry.gallery.record(image_id(2)), Standing("dog", hits))
    assert detail["licence"] == "CC BY 2.0"
    assert detail["source"] == "https://example.org/photo/3"
    assert detail["size"] == "640 × 480 pixels"
    assert detail["ranks"] == [
        {"lens": "captions", "title": "Caption lens", "place": "3rd of 12 · score 0.46"},
        {"lens": "clip", "title": "CLIP lens", "place": "not among its first 9"},
    ]
    first = detail_of(entry, entry.gallery.record(image_id(0)), Standing())
    assert first["confidence"] == "62% sure of its words, on average"
    assert first["ranks"] == []
    flagged = detail_of(entry, entry.gallery.record(image_id(6)), Standing())
    assert len(flagged["flags"]) == 2
    assert flagged["flags"][1] == "The caption repeats itself."


def test_a_bar_has_the_same_scale_whatever_the_best_of_them_is(shelf):
    hits = [Hit(image_id(0), 0.8, 1), Hit(image_id(1), 0.2, 2), Hit(image_id(2), -0.1, 3)]
    row = hit_row(shelf.entry(), hits, Standing(), lens="clip")
    bad = hit_row(shelf.entry(), hits[1:], Standing(), lens="clip")
    assert re.findall(r"width:(\d+)%", bad) == ["25", "4"]
    assert re.findall(r"width:(\d+)%", row) == ["100", "25", "4"]
    assert re.findall(r"</span>(-?\d\.\d\d)</span>", row) == ["0.80", "0.20", "-0.10"]
    assert [detail["id"] for detail in carried(row)] == [hit.id for hit in hits]


def test_there_is_no_bar_where_the_scale_of_a_model_is_not_known():
    assert "width:" not in score_facts(1, 0.5, None)
    assert "0.50" in score_facts(1, 0.5, None)


def test_captions_stand_under_the_lens_that_reads_them_only(shelf):
    hits = [Hit(image_id(0), 0.8, 1)]
    assert "tl-caption" in hit_row(shelf.entry(), hits, Standing(), lens="captions")
    assert "tl-caption" not in hit_row(shelf.entry(), hits, Standing(), lens="clip")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The first picture has three captions, the second two, the others one."""
    more = {0: ("a puppy plays with a ball", HOSTILE_CAPTION), 1: ("a pale hound dozes",)}
    pictures = [
        replace(each, more=tuple(Caption(text, (), 0.25) for text in more.get(row, ())))
        for row, each in enumerate(PICTURES[:4])
    ]
    folder = tmp_path_factory.mktemp("several")
    profile = planted_profile(folder)
    write_planted_gallery(folder / "gallery", profile, pictures, caption_pooling="best")
    return shelf_of([folder / "gallery"], profile).entry()


def shown(markup: str) -> list[str]:
    return re.findall(r'class="tl-caption"><span>(.*?)</span>', markup)


def test_a_card_shows_the_caption_that_matched_and_the_rest_on_demand(several):
    hits = several.service.by_text("puppy ball", k=4).hits
    assert (hits[0].id, hits[0].caption) == (image_id(0), 1)
    row = hit_row(several, hits, Standing(), lens="captions")
    assert shown(row)[0] == "a puppy plays with a ball"
    lists = re.findall(r"<summary>(.*?)</summary><ul>(.*?)</ul>", row)
    assert lists[0] == (
        "2 more captions",
        f"<li>{PICTURES[0].caption}</li><li>{html.escape(HOSTILE_CAPTION)}</li>",
    )
    assert [title for title, _ in lists] == ["2 more captions", "1 more caption"]
    assert row.count("<details") == 2
    assert "</details></button>" not in row
    detail = carried(row)[0]
    assert detail["caption"] == "a puppy plays with a ball"
    assert detail["more"] == [PICTURES[0].caption, HOSTILE_CAPTION]
    assert detail["confidence"] == "25% sure of its words, on average"


def test_a_fused_card_shows_what_matched_too(several):
    hit = Hit(image_id(1), 0.5, 1, caption=1)
    standing = Standing("hound", {"captions": {image_id(1): hit}})
    fused = [FusedHit(image_id(1), 0.02, 1, {"captions": hit})]
    assert shown(fused_row(several, fused, standing)) == ["a pale hound dozes"]
    (detail,) = carried(hit_row(several, [Hit(image_id(1), 0.3, 1)], standing, lens="clip"))
    assert detail["caption"] == "a pale hound dozes"


def test_the_api_names_the_caption_that_matched_and_the_others(several):
    answer = compare_json(several, "puppy ball", 4)
    for found in (answer["captions"][0], answer["fused"][0]):
        assert found["id"] == image_id(0)
        assert found["caption"] == "a puppy plays with a ball"
        assert found["more_captions"] == [PICTURES[0].caption, HOSTILE_CAPTION]
    assert [hit["more_captions"] for hit in answer["captions"] if hit["id"] == image_id(2)] == [[]]


def test_one_caption_has_nothing_to_open(shelf):
    hits = [Hit(image_id(0), 0.8, 1)]
    markup = hit_row(shelf.entry(), hits, Standing(), lens="captions")
    assert "<details" not in markup
    assert carried(markup)[0]["more"] == []


def test_nearly_the_same_pictures_are_folded_into_the_card_of_the_first(tmp_path):
    copies = [*PICTURES[:3], replace(PICTURES[1], caption="a copy of it")]
    profile = planted_profile(tmp_path)
    entry = shelf_of([write_planted_gallery(tmp_path / "g", profile, copies)], profile).entry()
    hits = [Hit(image_id(row), 0.5 - row / 10, row + 1) for row in range(4)]
    assert [hit.rank for hit in fill_row(entry, [*hits[:2], hits[3], hits[2]], 3)] == [1, 2, 4, 3]
    assert fill_row(entry, hits, 3) == tuple(hits[:3])
    row = hit_row(entry, hits, Standing(), lens="clip")
    assert row.count('<li class="tl-item">') == 4
    folded = row[row.index('<details class="tl-alike">') : row.index("</details></li>")]
    assert "+1 nearly the same" in folded
    assert image_id(3) in folded
    before = row[: row.index('<details class="tl-alike">')]
    assert before.count('<li class="tl-item">') == 2  # it stands under the second
