"""The large view of a picture, in a real browser."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.e2e.visiting import PHONE
from tests.planted_app import image_id

WIDTH_SHOWN = "i => i.naturalWidth"


def open_picture(visit, row: int):
    visit.search("dog frisbee snow")
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    visit.page.locator(f".tl-lens .tl-card:has(img[src*='{image_id(row)}'])").first.click()
    return visit.page.get_by_role("dialog")


def test_the_large_copy_takes_the_place_of_the_thumbnail_and_can_be_zoomed(visit):
    dialog = open_picture(visit, 2)
    image = dialog.locator(".tl-view img")
    expect(image).to_have_js_property("naturalWidth", 640)
    assert image_id(2) in image.get_attribute("src")
    expect(dialog.locator(".tl-only-small")).to_be_empty()
    view = dialog.locator(".tl-view")
    visit.page.keyboard.press("+")
    assert view.evaluate("v => v.scrollWidth > v.clientWidth")
    assert image.bounding_box()["width"] >= 1280
    expect(dialog.get_by_role("button", name="Zoom")).to_have_attribute("aria-pressed", "true")
    place = dialog.locator(".tl-turn > span").first.inner_text()
    before = view.evaluate("v => v.scrollLeft")
    visit.page.keyboard.press("ArrowRight")  # moves the picture, not to the next one
    visit.page.wait_for_function(
        "before => document.querySelector('.tl-view').scrollLeft > before", arg=before
    )
    expect(dialog.locator(".tl-turn > span").first).to_have_text(place)
    view.click()
    assert view.evaluate("v => v.scrollWidth <= v.clientWidth")


def test_it_can_be_downloaded_and_its_address_copied(visit, address):
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog = open_picture(visit, 2)
    with visit.page.expect_download() as saved:
        dialog.get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == "picture-2.webp"
    with Image.open(saved.value.path()) as picture:
        assert picture.size == (640, 480)
    dialog.get_by_role("button", name="Copy link").click()
    expect(dialog.locator(".tl-copied")).to_have_text("Link copied")
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"{address}/large/planted/{image_id(2)}.webp")
    answer = visit.page.request.get(copied)
    assert Image.open(io.BytesIO(answer.body())).size == (640, 480)


def test_without_a_large_copy_the_thumbnail_is_not_stretched_and_the_page_says_so(visit):
    dialog = open_picture(visit, 0)
    expect(dialog.locator(".tl-only-small")).to_have_text("Only a small copy is kept here.")
    image = dialog.locator(".tl-view img")
    assert image.evaluate("i => getComputedStyle(i).objectFit") == "scale-down"
    assert image.evaluate(WIDTH_SHOWN) == 320


@pytest.mark.parametrize("visit", [{"viewport": PHONE, "has_touch": True}], indirect=True)
def test_a_finger_turns_to_the_next_picture(visit):
    dialog = open_picture(visit, 2)
    expect(dialog.locator(".tl-view img")).to_have_js_property("naturalWidth", 640)
    swipe = """v => {
      const at = (x) => [new Touch({identifier: 1, target: v, clientX: x, clientY: 200})];
      v.dispatchEvent(new TouchEvent('touchstart', {touches: at(300)}));
      v.dispatchEvent(new TouchEvent('touchend', {changedTouches: at(120)}));
    }"""
    here = dialog.locator(".tl-turn > span").first
    number = int(here.inner_text().split()[0])
    dialog.locator(".tl-view").evaluate(swipe)
    expect(here).to_have_text(f"{number + 1} of 5")
    assert visit.small_targets(".tl-dialog ") == []
