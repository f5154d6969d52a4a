"""What the page does by itself: it waits for its first gallery, and answers an example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from playwright.sync_api import Page, expect

from core.records import SAMPLE_NAME
from core.ui.galleries.shelf import Shelf
from core.ui.parts.results.states import SAMPLE_EXAMPLES
from tests.e2e.visiting import Visit
from tests.planted_app import (
    drawn,
    image_id,
    planted_models,
    planted_profile,
    serving,
    shelf_of,
    write_planted_gallery,
)


@pytest.fixture
def awaited(tmp_path: Path) -> SimpleNamespace:
    """A shelf without a gallery, and one that is on its way."""
    profile = planted_profile(tmp_path)
    shelf = Shelf(profile)
    shelf.awaited = SimpleNamespace(
        folder=tmp_path / "sample",
        total=7,
        done=0,
        shown={},
        thumbnail={image_id(1): drawn(1)}.get,
        trouble="",
    )
    return SimpleNamespace(shelf=shelf, profile=profile, gallery=shelf.awaited)


def arrive(awaited: SimpleNamespace) -> None:
    write_planted_gallery(awaited.gallery.folder, awaited.profile, source=SAMPLE_NAME)
    models = planted_models(awaited.profile)
    awaited.shelf.add(awaited.gallery.folder, models, max_query_chars=1000)
    awaited.shelf.awaited = None


@contextmanager
def opened(chromium, awaited: SimpleNamespace) -> Iterator[Page]:
    """The page of a shelf that awaits its gallery; nothing may go wrong in it."""
    problems: list[object] = []
    with serving(awaited.shelf) as url:
        page = chromium.new_page()
        page.on("pageerror", lambda error: problems.append(error))
        page.goto(url)
        yield page
        page.close()
    assert problems == []


def test_the_page_turns_into_the_gallery_when_that_is_built(chromium, awaited):
    with opened(chromium, awaited) as page:
        notice = page.locator(".tl-building:visible")
        expect(notice).to_contain_text("Building the first gallery: 0 of 7", timeout=30_000)
        answer = httpx.get(f"{page.url}health")
        assert (answer.status_code, answer.json()["status"]) == (503, "starting")
        expect(page.locator(".tl-how:visible")).to_have_count(2)
        awaited.gallery.shown = {image_id(1): "a <b>dog</b> sleeps"}
        awaited.gallery.done = 4
        expect(notice).to_contain_text("4 of 7", timeout=30_000)
        figure = page.locator(".tl-watched figure:visible")
        expect(figure).to_have_text("a <b>dog</b> sleeps")
        picture = figure.locator("img")
        page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
        missing = f"{page.url}{picture.get_attribute('src')}".replace(image_id(1), image_id(2))
        assert httpx.get(missing).status_code == 404
        arrive(awaited)
        for lens in ("captions", "clip"):
            expect(page.locator(f".tl-lens.{lens} .tl-card")).to_have_count(5, timeout=30_000)
        expect(page.locator("#compare-query input")).to_have_value(SAMPLE_EXAMPLES[0])
        page.get_by_role("tab", name="CLIP").click()
        expect(page.locator(".tl-card:visible").first).to_be_visible(timeout=30_000)


def test_what_was_typed_meanwhile_is_answered_first(chromium, awaited):
    with opened(chromium, awaited) as page:
        expect(page.locator(".tl-building:visible")).to_be_visible(timeout=30_000)
        field = page.locator("#compare-query input")
        field.fill("a dog")
        arrive(awaited)
        expect(page.locator(".tl-lens.clip .tl-card")).to_have_count(5, timeout=30_000)
        expect(field).to_have_value("a dog")


def test_a_gallery_that_will_not_come_is_explained(chromium, awaited):
    awaited.gallery.trouble = "The default gallery could not be built."
    with opened(chromium, awaited) as page:
        notice = page.locator(".tl-notice:visible")
        expect(notice).to_contain_text("could not be built", timeout=30_000)
        expect(notice).to_contain_text("python -m precompute build")
        assert httpx.get(f"{page.url}health").json()["status"] == "failing"


def first_screen_stays(visit: Visit) -> None:
    """After a picture was looked at, and after another search and Back."""
    page, card = visit.page, visit.cards(".tl-lens.clip").first
    field = page.locator("#compare-query input")
    card.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.wait_for_function("location.search === ''")
    expect(field).to_have_value(SAMPLE_EXAMPLES[0])
    expect(card).to_be_focused()
    visit.search("a dog")
    page.wait_for_url("**/?q=a+dog*")
    page.go_back()
    expect(field).to_have_value(SAMPLE_EXAMPLES[0])
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    page.wait_for_function("location.search === ''")


def test_the_sample_gallery_opens_with_an_answer_and_others_do_not(chromium, tmp_path):
    profile = planted_profile(tmp_path)
    sample = write_planted_gallery(tmp_path / "sample", profile, source=SAMPLE_NAME)
    other = write_planted_gallery(tmp_path / "other", profile)
    with serving(shelf_of([sample], profile)) as url:
        visit = Visit(chromium.new_page(), url)
        expect(visit.cards(".tl-lens.clip")).to_have_count(5, timeout=30_000)
        pressed = visit.page.locator('.tl-chip[aria-pressed="true"]:visible')
        expect(pressed).to_have_text(SAMPLE_EXAMPLES[0])
        first_screen_stays(visit)
        visit.page.close()
    with serving(shelf_of([other], profile)) as url:
        visit = Visit(chromium.new_page(), url)
        expect(visit.page.locator(".tl-lens.plain:visible").first).to_contain_text("12 pictures")
        expect(visit.page.locator("#compare-query input")).to_have_value("")
        visit.page.close()
