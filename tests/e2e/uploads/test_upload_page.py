"""The tab Your photos in a real browser: drop, watch, search, correct, take away, forget."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.uploads.conftest import HOSTILE_NAME
from tests.e2e.visiting import Visit
from tests.tiny_uploads import colours, picture_bytes

PHONE = {"width": 390, "height": 844}
HOSTILE_CAPTION = '"><script>window.pwned=1</script><b onclick="window.pwned=1">dog</b>'


def drop(visit: Visit, folder: Path) -> None:
    visit.page.set_input_files("#upload-drop input.folder", str(folder))


def drop_files(visit: Visit, *paths: Path) -> None:
    visit.page.set_input_files("#upload-files input[type=file]", [str(path) for path in paths])


def state(visit: Visit):
    return visit.page.locator("#upload-state .tl-upload-state")


def files_of(uploads) -> list[Path]:
    # os.walk, which does not mind a folder that is deleted while it is listed.
    walked = os.walk(uploads.folder)
    return [Path(at) / name for at, _, names in walked for name in names if name != "lock"]


def wait_until_clean(uploads, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while files_of(uploads) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert files_of(uploads) == []


def test_a_folder_is_described_searched_corrected_taken_away_and_forgotten(
    open_tab, uploads, folder
):
    visit = open_tab()
    page = visit.page
    expect(page.get_by_text("captioner writes a caption for each photo")).to_be_visible()
    drop(visit, folder)
    expect(state(visit)).to_contain_text("13 photos are ready to be described. That takes about")
    expect(state(visit)).to_contain_text("1 file is no photo")

    uploads.captioner.gate.clear()
    page.click("#upload-describe")
    expect(page.locator("#upload-state .tl-watched .is-waiting").nth(3)).to_be_visible()
    page.wait_for_function(
        "[...document.querySelectorAll('.tl-watched img')].every(i => i.naturalWidth > 0)"
    )
    expect(page.locator("#upload-state [role=progressbar]")).to_be_visible()
    uploads.captioner.gate.set()
    expect(state(visit)).to_contain_text(re.compile("13 photos described at .* a second"))
    expect(page.locator("#upload-state .tl-notices.refused")).to_contain_text("notes.txt")
    expect(page.get_by_role("heading", name="Your photos")).to_contain_text("13 pictures")

    page.fill("#upload-query input", "colour 0f0")
    page.press("#upload-query input", "Enter")
    for lens in ("captions", "clip"):
        cards = visit.cards(f"#upload-results .tl-lens.{lens}")
        expect(cards).to_have_count(5)
        expect(cards.first.locator("img")).to_have_attribute("alt", "colour 0f0")
    expect(page.locator("#upload-results .tl-agree")).to_be_visible()
    visit.cards("#upload-results .tl-lens.clip").first.click()
    expect(page.locator(".tl-dialog dd").first).to_have_text(HOSTILE_NAME)
    page.get_by_role("button", name="similar by CLIP").click()
    # Photos of one colour are nearly the same and folded into one card.
    expect(page.locator("#upload-results")).to_contain_text("CLIP")
    expect(visit.cards("#upload-results .tl-lens.clip").nth(3)).to_be_visible()

    page.get_by_text("Captions and downloads").click()
    row = page.locator("tr", has_text=HOSTILE_NAME)
    row.locator("input").fill(HOSTILE_CAPTION)
    row.locator("input").press("Tab")
    expect(page.locator("#upload-saved")).to_contain_text(HOSTILE_CAPTION)
    page.fill("#upload-query input", "dog")
    page.click("#upload-search")
    first = visit.cards("#upload-results .tl-lens.captions").first
    expect(first).to_be_visible()
    page.fill("#upload-query input", HOSTILE_CAPTION)
    page.click("#upload-search")
    expect(first.locator("img")).to_have_attribute("alt", HOSTILE_CAPTION)
    row.get_by_role("button").click()
    page.get_by_role("button", name="Remove", exact=True).last.click()
    expect(page.locator("#upload-saved")).to_contain_text("Removed")
    expect(page.locator("[data-remove]")).to_have_count(12)
    assert page.evaluate("window.pwned") is None

    with page.expect_download() as download:
        page.get_by_role("link", name="captions.csv").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 13
    assert len(files_of(uploads)) == 24  # a thumbnail and a large copy each

    page.click("#upload-forget")
    page.locator(".tl-confirm").get_by_role("button", name="Keep").click()
    expect(page.locator("[data-remove]")).to_have_count(12)
    page.click("#upload-forget")
    page.locator(".tl-confirm").get_by_role("button", name="Forget everything").click()
    expect(state(visit)).to_contain_text("Everything is forgotten")
    expect(page.locator("[data-remove]")).to_have_count(0)
    expect(visit.cards("#upload-results")).to_have_count(0)
    assert files_of(uploads) == []


def test_stop_keeps_what_is_done_and_more_files_are_added_later(open_tab, uploads, tmp_path):
    paths = []
    for row, colour in enumerate(colours(20)):
        paths.append(tmp_path / f"photo {row:02}.png")
        paths[-1].write_bytes(picture_bytes(colour))
    visit = open_tab()
    drop_files(visit, *paths[:19])
    expect(state(visit)).to_contain_text("19 photos are ready")
    uploads.captioner.gate.clear()
    while uploads.captioner.at_work.acquire(blocking=False):
        pass
    visit.page.click("#upload-describe")
    assert uploads.captioner.at_work.acquire(timeout=20)
    visit.page.click("#upload-stop")
    visit.page.wait_for_timeout(500)
    uploads.captioner.gate.set()
    expect(state(visit)).to_contain_text("Stopped. 4 photos described")
    expect(state(visit)).to_contain_text("15 photos still wait")
    visit.page.fill("#upload-query input", "colour 000")
    visit.page.press("#upload-query input", "Enter")
    expect(visit.cards("#upload-results .tl-lens.clip")).to_have_count(4)
    drop_files(visit, *paths[18:])
    expect(state(visit)).to_contain_text("17 photos are ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("16 photos described")
    again = visit.page.get_by_role("button", name="16 more photos: search again")
    again.click()
    expect(visit.cards("#upload-results .tl-lens.clip")).to_have_count(5)
    expect(again).to_have_count(0)
    expect(state(visit)).to_contain_text("1 file came twice")


def test_a_picture_searches_the_visitors_photos_and_leaves_no_file(open_tab, uploads, tmp_path):
    for row, colour in enumerate(colours(6)):
        (tmp_path / f"photo {row}.png").write_bytes(picture_bytes(colour, size=(64, 48)))
    visit = open_tab()
    drop_files(visit, *sorted(tmp_path.glob("*.png")))
    expect(state(visit)).to_contain_text("6 photos are ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("6 photos described")
    asked = tmp_path / "asked.jpg"
    asked.write_bytes(picture_bytes(colours(6)[3], size=(640, 480), kind="JPEG"))
    before = set(files_of(uploads))  # some of other visits, which go by and by
    visit.page.locator("#upload-by button").first.click()
    visit.page.set_input_files("#upload-picture input[type=file]", str(asked))
    results = visit.page.locator("#upload-results")
    expect(results.get_by_role("heading", name="Pictures that look like yours")).to_be_visible()
    first = visit.cards("#upload-results .tl-lens.clip").first
    expect(first.locator("img")).to_have_attribute("alt", "colour 300")
    asked.write_bytes(b"not a picture")
    visit.page.set_input_files("#upload-picture input[type=file]", str(asked))
    expect(results.get_by_role("alert")).to_contain_text("asked.jpg is not an image")
    deadline = time.monotonic() + 15
    while not before.issuperset(files_of(uploads)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert before.issuperset(files_of(uploads))


def test_words_in_captions_rank_the_visitors_photos_too_page_by_page(open_tab, uploads, tmp_path):
    for row, colour in enumerate(colours(7)):
        (tmp_path / f"photo {row}.png").write_bytes(picture_bytes(colour, size=(64, 48)))
    visit = open_tab()
    page = visit.page
    drop_files(visit, *sorted(tmp_path.glob("*.png")))
    expect(state(visit)).to_contain_text("7 photos are ready")
    page.click("#upload-describe")
    expect(state(visit)).to_contain_text("7 photos described")
    page.get_by_text("Captions and downloads").click()
    field = page.get_by_label("Caption of photo 3.png")
    field.fill("a dog in the rain")
    field.press("Enter")
    expect(page.locator("#upload-saved")).to_contain_text("Saved: a dog in the rain")
    page.fill("#upload-query input", "dogs")
    page.press("#upload-query input", "Enter")
    page.get_by_role("button", name="Add words in captions (BM25)").click()
    row = page.get_by_role("region", name="Words in captions, BM25")
    expect(row.locator(".tl-card img")).to_have_attribute("alt", "a dog in the rain")
    page.locator("#upload-results .tl-pages").get_by_role("button", name="Next →").click()
    expect(page.locator("#upload-results .tl-pages")).to_contain_text("6 to 7 of 7")
    expect(visit.cards("#upload-results .tl-lens.clip")).to_have_count(2)
    page.locator("#upload-results").get_by_role("button", name="← Previous").click()
    expect(visit.cards("#upload-results .tl-lens.clip")).to_have_count(5)
    item = page.locator("#upload-results .tl-lens.clip .tl-item").first
    item.locator(".tl-card").hover()
    alt = item.locator("img").get_attribute("alt")
    item.get_by_role("button", name=f"More like this: {alt}").click()
    expect(page.locator("#upload-query input")).to_have_value(re.compile("dogs like:[0-9a-f]{16}"))
    expect(page.get_by_role("button", name=f"Remove more like {alt}")).to_be_visible()


def test_a_picture_searches_the_shared_gallery_too(open_tab, uploads, tmp_path):
    asked = tmp_path / "asked.png"
    asked.write_bytes(picture_bytes((8, 8, 8), size=(64, 48)))
    visit = open_tab()
    visit.page.get_by_role("tab", name="CLIP").click()
    visit.page.locator("#clip-by button").first.click()
    visit.page.set_input_files("#clip-picture input[type=file]", str(asked))
    heading = visit.page.get_by_role("heading", name="Pictures that look like yours")
    expect(heading).to_be_visible()
    first = visit.cards(".tl-large .tl-lens.clip").first
    expect(first.locator("img")).to_have_attribute("alt", re.compile("a white dog sleeps|sofa"))


def test_the_queue_tells_a_visitor_their_place_and_when_it_is_full(open_tab, uploads, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes((8, 8, 8)))
    uploads.captioner.gate.clear()
    visits = [open_tab() for _ in range(4)]
    places = ("Describing your photos", re.compile(r"queue: 1/\d"), re.compile(r"queue: 2/2"), "")
    for visit, place in zip(visits, places, strict=True):
        drop_files(visit, path)
        expect(state(visit)).to_contain_text("1 photo is ready")
        visit.page.click("#upload-describe")
        expect(visit.page.locator("#upload-state")).to_contain_text(place)
    expect(visits[3].page.locator(".toast-wrap, .toast-body").first).to_contain_text(
        re.compile("queue|busy", re.IGNORECASE)
    )
    uploads.captioner.gate.set()
    for visit in visits[:3]:
        expect(state(visit)).to_contain_text("1 photo described")
    visits[3].page.click("#upload-describe")
    expect(state(visits[3])).to_contain_text("1 photo described")
    visits[3].problems.clear()  # the browser reports the refusal of the full queue


def test_stop_gives_up_a_place_in_the_queue_and_keeps_the_photos(open_tab, uploads, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes((8, 8, 8)))
    visits = [open_tab() for _ in range(4)]
    for visit in visits:
        drop_files(visit, path)
        expect(state(visit)).to_contain_text("1 photo is ready")
    running, stopped, behind, late = visits
    calls = uploads.captioner.calls
    uploads.captioner.gate.clear()
    running.page.click("#upload-describe")
    expect(state(running)).to_contain_text("Describing your photos")
    for visit, place in ((stopped, "queue: 1/1"), (behind, "queue: 2/2")):
        visit.page.click("#upload-describe")
        expect(visit.page.locator("#upload-state")).to_contain_text(place)
    stopped.page.click("#upload-stop")
    expect(state(stopped)).to_contain_text(
        "Stopped before it began; the place in the queue is free again. 1 photo still waits."
    )
    expect(stopped.page.locator("#upload-state")).not_to_contain_text("queue:")
    late.page.click("#upload-describe")  # the queue was full before
    expect(late.page.locator("#upload-state")).to_contain_text("queue: 2/2")
    uploads.captioner.gate.set()
    for visit in (running, behind, late):
        expect(state(visit)).to_contain_text("1 photo described")
    assert uploads.captioner.calls == calls + 3
    expect(state(stopped)).to_contain_text("Stopped before it began")
    stopped.page.click("#upload-describe")
    expect(state(stopped)).to_contain_text("1 photo described")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_caption_can_be_read_where_it_is_corrected(open_tab, uploads, tmp_path, scheme):
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes((8, 8, 8)))
    visit = open_tab(viewport=PHONE, color_scheme=scheme)
    drop_files(visit, path)
    expect(state(visit)).to_contain_text("1 photo is ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("1 photo described")
    visit.page.get_by_text("Captions and downloads").click()
    field = visit.page.locator("[data-caption]")
    expect(field).to_have_value("colour 000")
    expect(field).to_have_accessible_description("sure of its words")
    ink, ground = field.evaluate(
        "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
        ".map(css => css.match(/[\\d.]+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0))"
    )
    assert abs(ink - ground) > 450


def everything_gradio_keeps(page) -> str:
    sessions = list(page.state_holder.session_data.values())
    blocks = [block for session in sessions for block in session.blocks_config.blocks.values()]
    values = [getattr(block, "value", None) for block in blocks]
    return str([[s.config_values, s.state_data] for s in sessions]) + str(values)


def test_closing_the_tab_forgets(open_tab, uploads, served, tmp_path):
    path = tmp_path / "secret name.png"
    path.write_bytes(picture_bytes((8, 8, 8)))
    before = set(files_of(uploads))
    visit = open_tab()
    drop_files(visit, path)
    expect(state(visit)).to_contain_text("1 photo is ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("1 photo described")
    assert len(set(files_of(uploads)) - before) == 1
    assert "secret name" not in everything_gradio_keeps(served[2])
    visit.page.close()
    wait_until_clean(uploads)
    assert "secret name" not in everything_gradio_keeps(served[2])


def test_a_reload_finds_the_photos_again_and_the_browser_asks_before(open_tab, uploads, tmp_path):
    for row, colour in enumerate(colours(3)):
        (tmp_path / f"photo {row}.png").write_bytes(picture_bytes(colour))
    visit = open_tab()
    page = visit.page
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    buttons = [page.locator(f"#upload-{name}") for name in ("describe", "stop", "forget")]
    for button in buttons:
        expect(button).to_be_disabled()
    drop_files(visit, *sorted(tmp_path.glob("*.png"))[:2])
    expect(state(visit)).to_contain_text("2 photos are ready")
    expect(buttons[0]).to_be_enabled()
    expect(buttons[1]).to_be_disabled()
    page.click("#upload-describe")
    expect(state(visit)).to_contain_text("2 photos described")
    expect(buttons[0]).to_be_disabled()
    for _ in range(2):  # the second time the tab is another one for the server again
        page.reload()
        page.get_by_role("tab", name="Your photos").click()
        expect(state(visit)).to_contain_text("2 photos can be searched")
        expect(visit.cards("#upload-results")).to_have_count(2)
    assert asked == ["beforeunload", "beforeunload"]
    page.fill("#upload-query input", "colour 000")
    page.press("#upload-query input", "Enter")
    expect(visit.cards("#upload-results .tl-lens.clip")).to_have_count(2)
    page.click("#upload-forget")
    page.locator(".tl-confirm").get_by_role("button", name="Forget everything").click()
    expect(state(visit)).to_contain_text("Everything is forgotten")
    page.reload()
    page.get_by_role("tab", name="Your photos").click()
    expect(buttons[2]).to_be_disabled()
    assert len(asked) == 2
    assert files_of(uploads) == []


def test_a_token_of_nobody_finds_nothing(open_tab, uploads, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes((8, 8, 8)))
    owner = open_tab()
    drop_files(owner, path)
    expect(state(owner)).to_contain_text("1 photo is ready")
    (session,) = (session for session in uploads.sessions() if session.waiting)
    assert uploads.by_keep_token(session.keep_token) is session
    for guess in ("", session.view_token, session.keep_token[:-1], "ä"):
        assert uploads.by_keep_token(guess) is None


def test_on_a_phone(open_tab, uploads, folder):
    visit = open_tab(viewport=PHONE, has_touch=True)
    drop_files(visit, *sorted(folder.rglob("*.jpg")), folder / HOSTILE_NAME)
    expect(state(visit)).to_contain_text("13 photos are ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("13 photos described")
    downloads = visit.page.get_by_text("Captions and downloads")
    row = visit.page.locator("#upload-results .tl-answer .tl-lens.plain").bounding_box()
    assert 0 < downloads.bounding_box()["y"] - (row["y"] + row["height"]) < 160
    downloads.click()
    expect(visit.page.locator("[data-caption]").first).to_be_visible()
    assert visit.overflow() <= 0
    box = visit.page.locator("[data-caption]").first.bounding_box()
    assert box["width"] > 300
    assert box["height"] >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(open_tab, uploads, folder, scheme):
    visit = open_tab(color_scheme=scheme)
    drop(visit, folder)
    expect(state(visit)).to_contain_text("13 photos are ready")
    visit.page.click("#upload-describe")
    expect(state(visit)).to_contain_text("13 photos described")
    visit.page.get_by_text("Captions and downloads").click()
    expect(visit.page.locator("[data-caption]").first).to_be_visible()
    assert visit.low_contrast("#upload-state") == []
    assert visit.low_contrast("#upload-table") == []
    assert visit.low_contrast("#upload-downloads") == []
    assert visit.low_contrast(".tl-upload-intro") == []
