"""Break a lens: pairs that mean different things, asked live, and words that one lens misses."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from core.gallery.figures.metrics_file import METRICS_FILE
from core.ui.tabs.break_a_lens import LIMITS, Challenges, tour
from tests.core.measured import planted_metrics
from tests.e2e.visiting import DESKTOP, PHONE, Visit
from tests.planted_app import planted_shelf, serving

NOT_MEASURED = "Not measured on this gallery: nobody wrote queries of this kind for its pictures."


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A gallery with figures, of which some are by kind."""
    shelf = planted_shelf(tmp_path_factory.mktemp("measured"), [("planted", 12)])
    folder = shelf.entries[0].gallery.folder
    (folder / METRICS_FILE).write_text(planted_metrics(folder).to_json(), encoding="utf-8")
    return shelf


@pytest.fixture(scope="module")
def measured_address(measured):
    with serving(measured) as url:
        yield url


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_under_each_kind_stands_what_was_measured(new_page, measured_address, viewport, scheme):
    visit = Visit(new_page(viewport=viewport, color_scheme=scheme), measured_address)
    visit.page.get_by_role("tab", name="Break a lens").click()
    kinds = visit.page.locator(".tl-limit")
    expect(kinds).to_have_count(len(LIMITS))
    lines = {
        each.locator("h3").inner_text(): each.locator(".tl-note").inner_text()
        for each in kinds.all()
    }
    assert lines.pop("Not and without") == (
        "Caption lens 6 of 17, CLIP lens 9 of 17, chance 8.5: "
        "of two pictures alike but for this, the right one comes first."
    )
    assert lines.pop("Rare things") == (
        "Caption lens 3 of 16, CLIP lens 8 of 16, chance 1: "
        "a right picture is among the first five."
    )
    assert lines.pop("Colour of which thing") == (
        "Not measured by itself on this gallery. Of 40 captions by people with a colour in them, "
        "the caption lens finds the picture among its first five for 16 of 40, the CLIP lens for "
        "24 of 40; the other words of a caption help."
    )
    assert len(lines) == len(LIMITS) - 3  # of style four queries were asked, which say nothing
    assert set(lines.values()) == {NOT_MEASURED}
    assert visit.low_contrast(".tl-limits") == []
    assert visit.overflow() == 0
    assert visit.problems == [] and visit.elsewhere == []


def test_without_figures_it_says_so_or_that_they_are_coming(tmp_path):
    shelf = planted_shelf(tmp_path, [("planted", 12)])
    assert tour(shelf, None).count(NOT_MEASURED) == len(LIMITS)
    folder = shelf.entries[0].gallery.folder
    shelf.awaited = SimpleNamespace(folder=folder, trouble="")
    assert tour(shelf, None).count("Being measured on this gallery at this moment") == len(LIMITS)
    shelf.awaited = SimpleNamespace(folder=folder, trouble="The disk is full.")
    assert tour(shelf, None).count(NOT_MEASURED) == len(LIMITS)


@pytest.mark.parametrize("visit", [{"viewport": PHONE, "color_scheme": "dark"}], indirect=True)
def test_a_pair_is_asked_and_a_picture_described(visit: Visit):
    page = visit.page
    page.get_by_role("tab", name="Break a lens").click()
    first, second = LIMITS[0].pair
    page.get_by_role("button", name=first, exact=True).click()
    told = page.get_by_text(re.compile(r"\d of 5 pictures are the same for both"))
    expect(told).to_have_count(2)
    expect(page.get_by_role("button", name=first, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_role("button", name=second, exact=True).click()
    expect(page.get_by_role("button", name=second, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    field = page.locator("#challenge-words input")
    field.fill("dog beach")
    field.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Caption lens place")).to_be_visible()
    page.get_by_role("button", name="Another picture").click()
    expect(field).to_have_value("")


def test_a_lens_is_broken_once_a_picture(shelf):
    entry = shelf.entry()
    challenges = Challenges(shelf)
    for _ in range(200):
        challenges.picture("anna", "", another=True)
        said = challenges.attempt("anna", "", "dog beach")
        if "You broke" in said:
            again = challenges.attempt("anna", "", "dog beach")
            count = re.search(r"Broken so far: (.*), in (\d+) tries", again)
            assert count
            assert sum(map(int, re.findall(r"\d+", count[1]))) == 1
            return
    ranks = [
        [hit.id for hit in entry.service.by_text("dog beach", k=12, lens=lens).hits]
        for lens in ("captions", "clip")
    ]
    assert not any(
        (ranks[0].index(i) < 5 and ranks[1].index(i) >= 10)
        or (ranks[1].index(i) < 5 and ranks[0].index(i) >= 10)
        for i in ranks[0]
    )
