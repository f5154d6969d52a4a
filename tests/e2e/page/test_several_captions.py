"""A gallery with several captions an image, in a browser: what matched, and the rest on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from core.records import Caption
from tests.e2e.visiting import Visit
from tests.planted_app import (
    HOSTILE_CAPTION,
    PICTURES,
    planted_profile,
    serving,
    shelf_of,
    write_planted_gallery,
)

OTHERS = ("a puppy plays with a ball", HOSTILE_CAPTION)


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("several")
    more = tuple(Caption(text, (), 0.25) for text in OTHERS)
    profile = planted_profile(folder)
    pictures = [replace(PICTURES[0], more=more), *PICTURES[1:6]]
    write_planted_gallery(folder / "gallery", profile, pictures, caption_pooling="best")
    with serving(shelf_of([folder / "gallery"], profile)) as address:
        yield address


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_caption_that_matched_and_the_rest_at_a_press(several, new_page, scheme):
    page = new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    visit = Visit(page, several)
    visit.search("puppy ball")
    first = page.locator(".tl-lens.captions .tl-item").first
    expect(first.locator(".tl-caption")).to_have_text(OTHERS[0], timeout=60_000)
    summary, others = first.locator("summary"), first.locator(".tl-more li")
    expect(summary).to_have_text("2 more captions")
    expect(others.first).to_be_hidden()
    assert summary.bounding_box()["height"] >= 43.5
    summary.press("Enter")
    expect(others).to_have_text([PICTURES[0].caption, HOSTILE_CAPTION])
    expect(others.first).to_be_visible()
    expect(page.locator(".tl-dialog[open]")).to_have_count(0)
    assert visit.overflow() <= 0
    assert visit.low_contrast() == []

    first.locator(".tl-card").click()
    dialog = page.locator(".tl-dialog")
    expect(dialog.locator("blockquote")).to_have_text(OTHERS[0])
    dialog.locator(".tl-more summary").click()
    expect(dialog.locator(".tl-more li")).to_have_text([PICTURES[0].caption, HOSTILE_CAPTION])
    assert visit.small_targets(".tl-dialog ") == []
    assert page.evaluate("window.pwned") is None
    assert visit.problems == []
