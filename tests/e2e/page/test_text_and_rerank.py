"""Beyond both lenses, in the browser: text in the pictures, why it was found, and a reranking."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import expect

from core.models.choose import with_matcher
from core.models.profiles import Models
from core.ui.galleries.shelf import Shelf
from tests.core.ui.tabs.test_text_and_rerank import SIGNS, Explained
from tests.e2e.visiting import PHONE, Visit
from tests.planted_app import PICTURES, planted_profile, serving, write_planted_gallery
from tests.tiny_matchers import save_tiny_matcher


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("further")
    plain = planted_profile(folder)
    pictures = [replace(each, text=SIGNS.get(row, "")) for row, each in enumerate(PICTURES)]
    gallery = write_planted_gallery(folder / "signs", plain, pictures)
    profile = with_matcher(plain, str(save_tiny_matcher(folder / "tiny-itm", "blip-2")))
    models = Models(
        profile, device="cpu", sentence=Explained(profile.sentence), clip=Explained(profile.clip)
    )
    with serving(Shelf.open([gallery], profile, models, max_query_chars=1000)) as url:
        yield url


@pytest.mark.parametrize(
    "visit", [{}, {"viewport": PHONE, "color_scheme": "dark"}], indirect=True, ids=["desk", "phone"]
)
def test_text_in_the_pictures_and_a_reranking_are_a_press_away(visit: Visit):
    page = visit.page
    visit.search("the philips stop")
    text = page.get_by_role("button", name="Add text in the pictures")
    text.focus()
    page.keyboard.press("Enter")
    row = page.get_by_role("region", name="Text in the pictures")
    expect(row.locator(".tl-read")).to_have_text(["it reads PHILLIPS", "it reads STOP"])
    expect(text).to_be_hidden()
    row.locator(".tl-card").first.click()
    page.get_by_text("Why this picture?").click()
    expect(page.locator(".tl-why-part.text mark")).to_have_text("PHILLIPS")
    page.get_by_role("button", name="Close").click()

    assert visit.overflow() == 0
    assert visit.low_contrast(".tl-results") == []
    if page.viewport_size == PHONE:
        assert visit.small_targets(".tl-further ") == []
    page.get_by_role("button", name="by tiny-itm").click()
    after = page.get_by_role("region", name="After")
    expect(after.locator(".tl-card")).to_have_count(len(PICTURES))
    expect(after.get_by_role("heading")).to_contain_text("Reranked by tiny-itm")
    expect(after.locator(".tl-was").first).to_contain_text("from ")
    assert visit.overflow() == 0 and visit.low_contrast(".tl-results") == []
    page.get_by_role("button", name="← the philips stop").click()
    row.get_by_role("button", name="Hide").click()  # it stayed from search to search until now
    expect(text).to_be_visible()
