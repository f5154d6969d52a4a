"""What photos are called that a visitor sends in folders, and how the tab makes room for them."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.uploads.test_upload_page import drop, state
from tests.tiny_uploads import picture_bytes


def test_files_of_one_name_keep_the_names_of_their_folders(open_tab, uploads, tmp_path):
    for place, name in enumerate(("day 1/IMG_1.png", "day 2/IMG_1.png", "day 2/IMG_2.png")):
        path = tmp_path / "trip" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes((8, 8 + 80 * place, 8), size=(64, 48)))
    visit = open_tab()
    page = visit.page
    zone, limits = page.locator(".tl-drop"), page.locator(".tl-upload-intro .tl-note")
    before = zone.bounding_box()["height"]
    expect(limits).to_be_visible()
    drop(visit, tmp_path / "trip")
    expect(state(visit)).to_contain_text("3 photos are ready")
    # What is said of sending gives way to the photos; who sees them stays.
    expect(limits).to_be_hidden()
    expect(page.locator(".tl-private")).to_be_visible()
    assert zone.bounding_box()["height"] < before / 1.5
    page.click("#upload-describe")
    expect(state(visit)).to_contain_text("3 photos described", timeout=20_000)
    page.get_by_text("Captions and downloads").click()
    names = page.locator("td.tl-file-name")
    expect(names).to_have_count(3)
    assert sorted(names.all_inner_texts()) == [
        "IMG_2.png",
        "trip › day 1 › IMG_1.png",
        "trip › day 2 › IMG_1.png",
    ]


def test_what_systems_put_into_folders_is_left_out_but_no_photo(open_tab, uploads, tmp_path):
    folder = tmp_path / "trip"
    folder.mkdir()
    for place, name in enumerate((".hidden.png", "a.png")):
        folder.joinpath(name).write_bytes(picture_bytes((8, 8 + 80 * place, 8), size=(64, 48)))
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".picasa.ini"):
        folder.joinpath(name).write_bytes(b"of a system")
    visit = open_tab()
    drop(visit, folder)
    expect(state(visit)).to_contain_text("2 photos are ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("2 photos described", timeout=20_000)
    visit.page.get_by_text("Captions and downloads").click()
    names = visit.page.locator("td.tl-file-name")
    expect(names).to_have_count(2)
    assert sorted(names.all_inner_texts()) == [".hidden.png", "a.png"]
