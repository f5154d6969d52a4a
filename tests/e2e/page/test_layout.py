"""How the page lies on a desktop and on a phone: rows, proportions, contrast, and nothing jumps."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.visiting import DESKTOP, PHONE
from tests.planted_app import image_id

dark = pytest.param({"color_scheme": "dark"}, id="dark")
light = pytest.param({"color_scheme": "light"}, id="light")
on_phone = pytest.mark.parametrize(
    "visit", [pytest.param({"viewport": PHONE, "has_touch": True}, id="phone")], indirect=True
)


@on_phone
def test_on_a_phone_lenses_stand_beside_each_other_and_the_search_stays_in_sight(visit):
    assert visit.overflow() <= 0
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    assert visit.overflow() <= 0
    boxes = [
        visit.page.locator(f".tl-lens.{lens}:visible").bounding_box()
        for lens in ("captions", "clip")
    ]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    visit.page.evaluate("window.scrollTo(0, 900)")
    assert 0 <= visit.page.locator("#compare-query").bounding_box()["y"] < 20
    visit.page.evaluate("window.scrollTo(0, 0)")
    tabs = visit.page.get_by_role("tab")
    expect(tabs).to_have_text(
        ["Compare", "Captions", "CLIP", "Map", "Break a lens", "Which is better?", "About"]
    )
    for place in range(tabs.count()):
        tabs.nth(place).scroll_into_view_if_needed()  # the row of tabs is swiped, not the page
        box = tabs.nth(place).bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    assert visit.small_targets() == []
    shown = visit.page.locator("footer").evaluate(
        "e => [...e.children].filter(c => c.checkVisibility()).map(c => c.innerText.trim())"
    )
    assert "·" not in shown
    visit.search("dog frisbee snow")
    visit.cards(f".tl-lens.clip :has([src*='{image_id(2)}'])").first.tap()
    dialog = visit.page.get_by_role("dialog")
    expect(dialog.get_by_role("link", name="example.org")).to_be_visible()
    assert dialog.bounding_box()["width"] <= PHONE["width"]
    assert visit.small_targets(".tl-dialog ") == []
    visit.page.get_by_role("button", name="Close").tap()
    for tab in ("Captions", "CLIP", "About"):
        visit.open_tab(tab)
        assert visit.overflow() <= 0, tab
        chosen = visit.page.locator('[role="tab"][aria-selected="true"]')
        expect(chosen).to_have_text(tab)
        expect(chosen).to_be_in_viewport(ratio=1)
    visit.open_tab("Compare")
    visit.page.get_by_role("button", name=re.compile("models")).tap()
    expect(visit.page.get_by_role("heading", name="The models that answer")).to_be_visible()


@on_phone
def test_on_a_phone_the_words_have_the_row_and_the_number_comes_while_one_types(visit):
    page = visit.page
    number, words = page.get_by_label("Pictures per lens"), page.locator("#compare-query input")
    expect(number).to_be_hidden()
    assert words.bounding_box()["width"] >= 300
    words.tap()
    expect(number).to_be_visible()
    number.fill("3")
    visit.search("dog")
    expect(visit.cards(".tl-lens.clip")).to_have_count(3)
    expect(number).to_be_hidden()  # and the keyboard with it
    expect(words).not_to_be_focused()
    words.tap()
    page.get_by_role("button", name="Clear").locator("visible=true").tap()
    recent = page.locator(".tl-recent").bounding_box()
    below = page.locator("#compare-k").bounding_box()
    assert below["y"] + below["height"] <= recent["y"]


def test_what_stands_below_results_is_one_row(visit):
    visit.search("dog")
    parts = visit.page.locator(".tl-toolbar:visible > *")
    expect(parts).to_have_count(3)
    boxes = [part.bounding_box() for part in parts.all()]
    assert len({round(box["y"] + box["height"] / 2) for box in boxes}) == 1
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    visit.page.set_viewport_size(PHONE)
    assert visit.overflow() <= 0
    for part in parts.all():
        box = part.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize(
    "visit", [{"viewport": DESKTOP}, {"viewport": PHONE}], ids=["desktop", "phone"], indirect=True
)
def test_wide_and_tall_pictures_are_whole_inside_a_square(visit):
    visit.search("a red bus in the street a green train")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    frames = visit.page.locator(".tl-lens.captions .tl-frame:visible")
    for place in range(frames.count()):
        frame = frames.nth(place).bounding_box()
        image = frames.nth(place).locator("img")
        assert frame["width"] == pytest.approx(frame["height"], abs=1)
        assert image.bounding_box() == frame
        assert image.evaluate("i => getComputedStyle(i).objectFit") == "contain"
    tall = frames.locator(f"img[src*='{image_id(5)}']")
    assert tall.evaluate("i => i.naturalHeight / i.naturalWidth") > 5


@pytest.mark.parametrize("visit", [light, dark], indirect=True)
def test_text_contrasts_with_its_ground(visit):
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    assert visit.low_contrast() == []
    visit.cards(".tl-lens.captions").nth(1).click()
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    assert visit.low_contrast(".tl-dialog") == []
    visit.page.keyboard.press("Escape")
    visit.open_tab("Captions")
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    assert visit.low_contrast() == []
    visit.open_tab("About")
    assert visit.low_contrast() == []


def test_results_come_without_the_page_jumping(visit):
    visit.page.evaluate(
        """() => {
          window.shift = 0;
          const watch = (list) => list.getEntries().forEach(e => window.shift += e.value);
          new PerformanceObserver(watch).observe({type: 'layout-shift'});
        }"""
    )
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    before = visit.page.locator(".tl-lens.both:visible").bounding_box()
    visit.search("boat sea")
    expect(visit.page.locator(".tl-lens.clip img:visible").first).to_have_attribute(
        "src", re.compile(image_id(11))
    )
    assert visit.page.locator(".tl-lens.both:visible").bounding_box() == before
    assert visit.page.evaluate("window.shift") < 0.1


@pytest.mark.parametrize("tab", ["Captions", "CLIP"])
@pytest.mark.parametrize(
    "visit", [light, pytest.param({"viewport": PHONE}, id="phone")], indirect=True
)
def test_folded_filters_stand_in_the_heading_of_a_lens(visit, tab):
    visit.open_tab(tab)
    visit.search("a dog")
    filters, heading = (
        visit.page.locator(f"{part}:visible").bounding_box()
        for part in (".tl-filters summary", ".tl-lens-head h2")
    )
    assert abs(middle(filters) - middle(heading)) < 12
    assert heading["x"] + heading["width"] <= filters["x"]
    visit.page.locator(".tl-filters summary:visible").click()
    fields = visit.page.locator(".tl-filter-form:visible").bounding_box()
    assert (
        fields["y"] + fields["height"] <= visit.page.locator(".tl-lens:visible").bounding_box()["y"]
    )


def middle(box):
    return box["y"] + box["height"] / 2
