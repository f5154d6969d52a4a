"""Parts and filters of a query: chips, the panel, the large view, the address."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.visiting import PHONE
from tests.planted_app import image_id

FIELD = ".tl-query :is(input, textarea):visible"


def first(visit, row: int) -> None:
    expect(visit.cards().first).to_have_attribute("data-picture", re.compile(image_id(row)))


def test_negation_is_offered_and_its_chip_can_be_removed_and_restored(visit):
    page = visit.page
    visit.search("a dog without a beach")
    offer = page.get_by_role("button", name="Search for: a dog −beach")
    offer.focus()
    page.keyboard.press("Enter")
    chip = page.get_by_role("button", name="Remove −beach")
    expect(chip).to_be_visible()
    expect(page.locator(FIELD)).to_have_value("a dog -beach")
    page.wait_for_url(re.compile("-beach"))
    page.reload()
    expect(chip).to_be_visible(timeout=30_000)
    chip.click()
    expect(page.locator(FIELD)).to_have_value("a dog")
    expect(page.locator(".tl-part:visible")).to_have_count(0)
    page.go_back()
    expect(chip).to_be_visible()


def test_a_picture_is_added_and_taken_away_from_the_large_view(visit):
    page = visit.page
    visit.search("a red bus")
    first(visit, 4)
    visit.cards().first.click()
    dialog = page.locator("dialog.tl-dialog[open]")
    dialog.get_by_label("This, but").fill("a green train")
    dialog.get_by_label("This, but").press("Enter")
    expect(page.locator(FIELD)).to_have_value(f'"a green train"^2 like:{image_id(4)}')
    first(visit, 5)
    visit.cards().first.click()
    dialog.get_by_role("button", name="Less like this").click()
    expect(page.get_by_role("button", name="Remove less like a green train")).to_be_visible()
    expect(page.locator(FIELD)).to_have_value(
        f'"a green train"^2 like:{image_id(4)} -like:{image_id(5)}'
    )


def expect_query(visit, words: str) -> None:
    expect(visit.page.locator(FIELD)).to_have_value(words)


def card_of(visit, inside: str, row: int):
    return visit.page.locator(
        f"{inside} .tl-item:has(> .tl-card img[src*='{image_id(row)}']):visible"
    )


def expect_opacity(button, value: str) -> None:
    expect(button).to_have_css("opacity", value)


def test_a_card_offers_more_and_less_like_it_while_it_is_pointed_at(visit):
    page = visit.page
    visit.search("a red bus")
    first(visit, 4)
    item = card_of(visit, ".tl-lens.captions", 4)
    less = item.get_by_role("button", name="Less like this: a red bus in the street")
    page.mouse.move(2, 2)
    expect_opacity(less, "0")
    item.locator(".tl-card").hover()
    expect_opacity(less, "1")
    assert less.bounding_box()["height"] >= 24
    less.click()
    expect_query(visit, f"a red bus -like:{image_id(4)}")
    chip = page.get_by_role("button", name="Remove less like a red bus in the street")
    expect(chip).to_be_visible()
    expect(card_of(visit, ".tl-lens.captions", 4)).to_have_count(0)
    fused = card_of(visit, ".tl-lens.both", 5)
    fused.locator(".tl-card").hover()
    fused.get_by_role("button", name="More like this: a green train").click()
    expect_query(visit, f"a red bus -like:{image_id(4)} like:{image_id(5)}")
    added = page.get_by_role("button", name="Remove more like a green train")
    expect(added).to_be_visible()
    page.go_back()
    expect(added).to_have_count(0)
    chip.click()
    expect_query(visit, "a red bus")
    first(visit, 4)


@pytest.mark.parametrize("tab", ["Captions", "CLIP"])
def test_the_keyboard_reaches_what_a_card_offers(visit, tab):
    page = visit.page
    visit.open_tab(tab)
    visit.search("a green train")
    first(visit, 5)
    visit.cards().first.focus()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_accessible_name("More like this: a green train")
    expect_opacity(page.locator(":focus"), "1")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_accessible_name("Less like this: a green train")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect_query(visit, f"a green train like:{image_id(5)}")
    expect(page.get_by_role("button", name="Remove more like a green train")).to_be_visible()
    expect(page.locator(".tl-answer:focus")).to_be_visible()  # the results, not the page's top


@pytest.mark.parametrize(
    "visit", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True
)
def test_a_finger_finds_what_a_card_offers_behind_dots(visit):
    page = visit.page
    visit.search("a red bus")
    first(visit, 4)
    item, other = (card_of(visit, ".tl-lens.clip", row) for row in (4, 5))
    dots = item.get_by_role("button", name="More like this, or less: a red bus in the street")
    dots.tap()
    expect(dots).to_be_hidden()
    expect(item.locator(".tl-likes button:visible")).to_have_count(2)
    assert visit.small_targets() == []
    assert visit.overflow() <= 0
    other.locator("[data-like=dots]").tap()
    expect(dots).to_be_visible()
    other.get_by_role("button", name="More like this: a green train", exact=True).tap()
    expect_query(visit, f"a red bus like:{image_id(5)}")
    expect(page.get_by_role("button", name="Remove more like a green train")).to_be_visible()
    page.go_back()
    expect_query(visit, "a red bus")


def test_filters_alone_show_what_passes_them_and_lead_on_from_a_card(visit):
    page = visit.page
    visit.search("shape:portrait")
    expect(page.locator(".tl-lens.plain h2:visible")).to_contain_text("2 of 12 pictures")
    expect(visit.cards()).to_have_count(2)
    page.wait_for_url(re.compile("portrait"))
    item = card_of(visit, ".tl-lens.plain", 5)
    item.locator(".tl-card").hover()
    expect(item.locator("[data-like=less]")).to_have_count(0)  # there is nothing to be less like
    item.locator("[data-like=more]").click()
    expect_query(visit, f"shape:portrait like:{image_id(5)}")
    expect(visit.cards(".tl-lens.clip")).to_have_count(1)
    page.go_back()
    expect(visit.cards()).to_have_count(2)
    page.get_by_role("button", name="Remove portrait").click()
    expect(page.locator(".tl-lens.plain h2:visible")).to_contain_text("all 12 pictures")
    expect_query(visit, "")
    page.wait_for_url(re.compile("start=0"))
    page.go_back()
    expect(visit.cards()).to_have_count(2)
    expect_query(visit, "shape:portrait")
    visit.open_tab("CLIP")
    expect(visit.cards()).to_have_count(2)
    none = page.get_by_text("No picture passes the filters.").locator("visible=true")
    visit.search("shape:portrait -shape:portrait")
    expect(none).to_be_visible()
    visit.search("a dog caption:unicorn")
    expect(page.get_by_role("button", name="Remove “unicorn” in the caption")).to_be_visible()
    expect(none).to_be_visible()
    expect(page.locator(".tl-lens.clip:visible")).to_have_count(0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("like:nothing", "like: takes a picture's id, which “More like this” writes"),
        (
            "a dog like:0123456789abcdef",
            "No picture has the id '0123456789abcdef' in this gallery.",
        ),
    ],
)
def test_a_picture_that_is_not_there_is_told(visit, words, sentence):
    visit.search(words)
    expect(visit.page.get_by_role("alert").locator("visible=true")).to_contain_text(sentence)


@pytest.mark.parametrize("visit", [{"viewport": PHONE}], indirect=True)
def test_a_note_on_the_language_leaves_room_for_the_filters(visit):
    visit.search("ein Hund und eine Katze am Strand")
    note = visit.page.get_by_text("The models know English only").locator("visible=true")
    lines = note.evaluate(
        "e => { const text = document.createRange(); text.selectNodeContents(e);"
        " return [...text.getClientRects()].map(r => [r.right, r.bottom]); }"
    )
    filters = visit.page.locator(".tl-filters:visible").bounding_box()
    top, left = filters["y"], filters["x"]
    assert all(right <= left or bottom <= top for right, bottom in lines), (lines, filters)


@pytest.mark.parametrize("visit", [{"viewport": PHONE}], indirect=True)
def test_the_panel_writes_filters_into_the_query_on_a_phone(visit):
    page = visit.page
    visit.search("a dog")
    panel = page.locator(".tl-filters:visible")
    panel.locator("summary").click()
    panel.get_by_label("Shape").select_option("portrait")
    expect(page.locator(FIELD)).to_have_value("a dog shape:portrait")
    expect(page.get_by_role("button", name="Remove portrait")).to_be_visible()
    first(visit, 1)
    expect(page.get_by_text("The filters leave 2 pictures.")).to_be_visible()
    expect(panel.get_by_label("Shape")).to_be_visible()  # it stays unfolded
    for field in panel.locator("select, input, button").all():
        box = field.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]
    panel.get_by_label("Caption says").fill("train")
    panel.get_by_label("Caption says").press("Enter")
    expect(page.locator(FIELD)).to_have_value("a dog shape:portrait caption:train")
    first(visit, 5)
    assert visit.overflow() <= 0
    assert visit.small_targets() == []
    assert visit.low_contrast() == []


def test_the_endpoints_take_filters(address):
    def asked(*data: object) -> httpx.Response:
        return httpx.post(f"{address}/gradio_api/run/search_captions", json={"data": [*data]})

    found = asked("a dog -sleeps", 5, "default", "planted", "shape:portrait").json()["data"][0]
    assert [hit["id"] for hit in found["hits"]] == [image_id(1), image_id(5)]
    assert found["matches_well"] is None
    assert "is no filter" in asked("a dog", 5, "default", "planted", "portrait").text


def test_words_in_captions_are_a_row_that_stays_until_it_is_hidden(visit):
    page = visit.page
    row = page.get_by_role("region", name="Words in captions, BM25")
    visit.search("a dog on the beach")
    page.get_by_role("button", name="Add words in captions (BM25)").click()
    expect(row.locator(".tl-card").first).to_have_attribute("data-picture", re.compile(image_id(0)))
    visit.search("zebras")
    expect(row).to_contain_text("No caption has one of these words.")
    page.wait_for_url(re.compile("more=words"))
    page.reload()
    expect(row).to_contain_text("No caption has one of these words.", timeout=30_000)
    row.get_by_role("button", name="Hide").click()
    expect(row).to_have_count(0)
    visit.search("a white dog sleeps")
    first(visit, 1)
    expect(row).to_have_count(0)


def test_the_endpoint_of_words_ranks_by_shared_words(address):
    def found(query: str) -> list[str]:
        asked = {"data": [query, 5, "planted", "-caption:brown"]}
        answer = httpx.post(f"{address}/gradio_api/run/search_words", json=asked).json()["data"][0]
        return [hit["id"] for hit in answer["hits"]]

    assert found("dogs on a beach -sleeps^0.5") == [image_id(3), image_id(2), image_id(1)]
    assert found("dogs on a beach -sleeps") == [image_id(3), image_id(2)]  # below 0 is not found
