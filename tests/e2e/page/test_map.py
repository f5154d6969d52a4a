"""The tab "Map": pictures pointed at, taken out and found again, in a browser; on a phone too."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image, ImageChops
from playwright.sync_api import Page, expect

from core.gallery.manifest import FileRef, Manifest
from core.gallery.writer import write_array
from core.map.stored import MAP_FILE, MAP_FILES, map_file
from tests.e2e.visiting import PHONE, Visit
from tests.planted_app import PICTURES, image_id, planted_shelf, serving, shelf_of

GRID = np.array([(x, y) for y in range(3) for x in range(4)], np.float32) - [1.5, 1]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The app over a gallery whose pictures lie on a grid, CLIP mirrored, and one without."""
    folder = tmp_path_factory.mktemp("mapped")
    shelf = planted_shelf(folder, [("planted", 12), ("three", 3)])
    gallery = folder / "gallery-0"
    write_array(gallery / map_file("captions"), GRID.astype(np.float32))
    write_array(gallery / map_file("clip"), GRID.astype(np.float32) * np.float32([-1, 1]))
    (gallery / MAP_FILE).write_text('{"method": "a ruler"}')
    manifest = Manifest.read(gallery)
    files = {**manifest.files, **{name: FileRef.of(gallery / name) for name in MAP_FILES}}
    manifest.model_copy(update={"files": files}).write(gallery)
    folders = [gallery, folder / "gallery-1"]
    with serving(shelf_of(folders, shelf.profile)) as url:
        yield url


def open_map(visit: Visit) -> None:
    visit.open_tab("Map")
    visit.page.wait_for_function("window.twolens.map?.data()")


def spot(page: Page, row: int, lens: int = 0) -> tuple[float, float]:
    """Where a picture lies on the screen."""
    page.wait_for_function("lens => twolens.map.charts[lens].size()[0] > 300", arg=lens)
    box = page.locator(".tl-map-canvas").nth(lens).bounding_box()
    x, y = page.evaluate("([lens, row]) => twolens.map.charts[lens].screenOf(row)", [lens, row])
    return box["x"] + x, box["y"] + y


def drawn(page: Page, lens: int) -> Image.Image:
    """A map as it is painted, once nothing is on its way."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(250)
    return Image.open(io.BytesIO(page.locator(".tl-map-canvas").nth(lens).screenshot()))


def test_pictures_are_pointed_at_searched_and_taken_out(visit: Visit, address: str):
    page, asked = visit.page, []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    expect(visit.cards().first).to_be_visible()
    assert not [url for url in asked if "/map/" in url]  # nothing of it before the tab is opened
    open_map(visit)

    page.mouse.move(*spot(page, 5))
    tip = page.locator(".tl-map-tip")
    expect(tip).to_contain_text(PICTURES[5].caption)
    expect(page.locator(".tl-map-one.captions .tl-map-tip")).to_be_visible()
    marked = drawn(page, lens=1)
    page.mouse.move(*spot(page, 7))
    expect(tip).to_contain_text("<b>bold</b>")  # a caption is text
    page.mouse.move(5, 5)
    expect(tip).to_have_count(0)
    left, top, right, bottom = ImageChops.difference(marked, drawn(page, lens=1)).getbbox()
    frame = page.locator(".tl-map-canvas").nth(1).bounding_box()
    # It was marked on the other map too, where it lies elsewhere.
    x, y = spot(page, 5, lens=1)
    assert (left + right) / 2 == pytest.approx(x - frame["x"], abs=2)
    assert (top + bottom) / 2 == pytest.approx(y - frame["y"], abs=2)

    visit.search("a red bus")
    page.wait_for_function("twolens.map.data().query.query === 'a red bus'")
    assert page.evaluate("twolens.map.data().query.hits.captions[0]") == 4
    expect(page).to_have_url(re.compile(r"\?q=a\+red\+bus&g=planted&tab=map$"))
    before = page.evaluate("JSON.stringify(twolens.map.data().query)")
    page.reload()
    page.wait_for_function("window.twolens?.map?.data()?.query.query === 'a red bus'")
    assert page.evaluate("JSON.stringify(twolens.map.data().query)") == before

    page.keyboard.down("Shift")
    corners = [spot(page, row) for row in (1, 3, 7, 5)]
    middle = np.mean(corners, axis=0)
    ring = [middle + 1.4 * (np.array(corner) - middle) for corner in corners]
    page.mouse.move(*ring[0])
    page.mouse.down()
    for corner in (*ring[1:], ring[0]):
        page.mouse.move(*corner, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    selected = page.locator(".tl-lens", has_text="Selected")
    expect(selected.locator(".tl-card")).to_have_count(6)
    chosen = page.evaluate("[...twolens.map.data().chosen].sort((a, b) => a - b)")
    assert chosen == [1, 2, 3, 5, 6, 7]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").locator("visible=true").click()
    assert len(saved.value.path().read_text("utf-8-sig").splitlines()) == 7
    selected.locator(".tl-card").first.click()
    page.get_by_role("button", name="similar by captions").click()
    expect(page.locator(".tl-anchor:visible")).to_contain_text("Pictures whose captions say")

    page.locator(".tl-map-canvas").first.focus()
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    expect(page.locator("dialog.tl-dialog[open]")).to_contain_text("Why this picture?")
    page.keyboard.press("Escape")
    visit.choose_gallery("three")
    expect(page.get_by_text("python -m precompute map GALLERY")).to_be_visible()


@pytest.mark.parametrize(
    "visit", [{"viewport": PHONE, "color_scheme": "dark", "has_touch": True}], indirect=True
)
def test_a_phone_shows_one_map_at_a_time(visit: Visit):
    page = visit.page
    open_map(visit)
    captions, clip = page.locator(".tl-map-one.captions"), page.locator(".tl-map-one.clip")
    expect(captions).to_be_visible()
    expect(clip).to_be_hidden()
    page.locator(".tl-map-turn").get_by_role("button", name="CLIP lens").tap()
    expect(clip).to_be_visible()
    expect(captions).to_be_hidden()
    clip.locator(".tl-map-box").scroll_into_view_if_needed()
    page.touchscreen.tap(*spot(page, 4, lens=1))
    card = page.locator(".tl-map-tip .tl-card")
    expect(card).to_contain_text(PICTURES[4].caption)
    card.tap()
    expect(page.locator("dialog.tl-dialog[open]")).to_contain_text(PICTURES[4].caption)
    page.keyboard.press("Escape")
    clip.get_by_role("button", name="List the pictures in sight").tap()
    expect(page.get_by_role("heading", name="Selected")).to_contain_text("12 pictures")
    assert visit.overflow() == 0
    assert visit.small_targets(".tl-map ") == []
    assert visit.low_contrast() == []


def test_the_routes_of_a_map_give_what_the_page_shows_and_nothing_else(address):
    content = httpx.get(f"{address}/map/planted.bin").content
    assert len(content) == 24 * 12
    assert content[: 8 * 12].hex() == "".join(image_id(row) for row in range(12))
    found = np.frombuffer(content[8 * 12 :], "<f4").reshape(2, 12, 2)
    np.testing.assert_array_equal(found[1], found[0] * [-1, 1])
    detail = httpx.get(f"{address}/map/planted/{image_id(2)}.json").json()
    assert detail["caption"] == PICTURES[2].caption and detail["licence"] == "CC BY 2.0"
    for wrong in (
        "three.bin",
        "nobody.bin",
        "planted/0123456789abcdef.json",
        "map.py",
        "map.css.x",
    ):
        assert httpx.get(f"{address}/map/{wrong}").status_code == 404, wrong


def test_filters_alone_mark_the_points_that_pass(visit: Visit):
    page = visit.page
    open_map(visit)
    expect(visit.cards()).to_have_count(0)
    before = drawn(page, lens=0)
    visit.search("shape:portrait")
    expect(
        page.locator(".tl-asked > span", has_text="2 of 12 pictures pass the filters.")
    ).to_be_visible()
    assert page.evaluate("[...twolens.map.data().passing]") == [1, 5]
    assert ImageChops.difference(before, drawn(page, lens=0)).getbbox() is not None
    expect(page).to_have_url(re.compile(r"q=shape%3Aportrait&g=planted&tab=map$"))

    visit.search("a red bus shape:portrait")  # hits among those that pass
    page.wait_for_function("twolens.map.data().query.query === 'a red bus shape:portrait'")
    assert sorted(page.evaluate("twolens.map.data().query.hits.clip")) == [1, 5]
    visit.search("shape:square")
    expect(
        page.locator(".tl-asked > span", has_text="0 of 12 pictures pass the filters.")
    ).to_be_visible()
    assert page.evaluate("twolens.map.data().passing.size") == 0
    visit.search("a red bus")
    page.wait_for_function("twolens.map.data().passing === null")
