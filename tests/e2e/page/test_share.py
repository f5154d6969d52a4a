"""Addresses of views: kept, restored, shared; in a browser over planted galleries."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.core.ui.tabs.test_text_and_rerank import SIGNS
from tests.e2e.visiting import Visit
from tests.planted_app import (
    PICTURES,
    image_id,
    planted_profile,
    serving,
    shelf_of,
    write_planted_gallery,
)


@pytest.fixture
def browser(new_page):
    return new_page(viewport={"width": 1280, "height": 900})


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An app over pictures with text in them, so many that IVF has ten clusters."""
    folder = tmp_path_factory.mktemp("many")
    profile = planted_profile(folder)
    pictures = [
        replace(
            PICTURES[row % 12],
            caption="a bus stop" if row == 1 else f"picture {row} of a dog",
            seen=f"dog {row}",
            text=SIGNS.get(row, ""),
        )
        for row in range(400)
    ]
    gallery = write_planted_gallery(folder / "many", profile, pictures, "many")
    with serving(shelf_of([gallery], profile)) as url:
        yield url


def query_of(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def expect_query(page, wanted: dict[str, str]) -> None:
    """Wait until the address says this: the page changes it just after what it shows."""
    for _ in range(200):
        if query_of(page) == wanted:
            return
        page.wait_for_timeout(50)
    assert query_of(page) == wanted


def first_card(visit) -> str:
    return json.loads(visit.cards().first.get_attribute("data-picture"))["id"]


def test_a_search_has_an_address_that_back_and_reload_restore(address, browser):
    visit = Visit(browser, address)
    expect_query(browser, {})
    visit.search("a red bus")
    browser.wait_for_url(re.compile("red"))
    expect_query(browser, {"q": "a red bus", "g": "planted"})
    expect(visit.cards().first).to_have_attribute("data-picture", re.compile(image_id(4)))
    visit.search("a cat on a sofa")
    browser.wait_for_url(re.compile("sofa"))
    browser.go_back()
    expect(visit.cards().first).to_have_attribute("data-picture", re.compile(image_id(4)))
    expect(browser.locator("#compare-query input, #compare-query textarea")).to_have_value(
        "a red bus"
    )
    browser.reload()
    expect(visit.cards().first).to_have_attribute("data-picture", re.compile(image_id(4)))
    expect_query(browser, {"q": "a red bus", "g": "planted"})
    box = browser.locator("#compare-query input, #compare-query textarea")
    browser.go_back()
    expect(box).to_have_value("")
    browser.go_forward()
    expect(box).to_have_value("a red bus")
    assert visit.problems == []


def test_an_address_opens_its_tab_gallery_count_and_picture(address, browser):
    wanted = f"?q=a+white+dog&g=three&tab=captions&k=2&p={image_id(1)}"
    visit = Visit(browser, f"{address}/{wanted}")
    dialog = browser.locator("dialog.tl-dialog[open]")
    expect(dialog).to_contain_text("a white dog sleeps")
    expect(browser.get_by_role("tab", name="Captions", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    expect(visit.cards()).to_have_count(2)
    expect(browser.locator("#captions-k input")).to_have_value("2")
    expect(browser.locator("#gallery input")).to_have_value("three")
    browser.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(visit.cards()).to_have_count(2)
    expect_query(browser, {"q": "a white dog", "g": "three", "tab": "captions", "k": "2"})
    assert visit.problems == []


def test_a_picture_that_is_opened_is_closed_by_back(address, browser):
    visit = Visit(browser, address)
    visit.search("a red bus")
    browser.wait_for_url(re.compile("red"))
    visit.cards().first.click()
    browser.wait_for_url(re.compile("p="))
    assert query_of(browser)["p"] == image_id(4)
    browser.go_back()
    expect(browser.locator("dialog.tl-dialog[open]")).to_have_count(0)
    expect_query(browser, {"q": "a red bus", "g": "planted"})
    browser.go_forward()
    expect(browser.locator("dialog.tl-dialog[open]")).to_contain_text("a red bus")


def test_what_is_shared_leads_back_here(address, browser):
    words = quote('a dog’s "toy"')
    visit = Visit(browser, f"{address}/?q={words}&g=planted&k=3")
    browser.get_by_role("button", name="Share").click()
    dialog = browser.locator("dialog.tl-share-dialog")
    expect(dialog.locator("textarea")).to_have_count(3)
    link, python, curl = (field.input_value() for field in dialog.locator("textarea").all())
    assert query_of_text(link) == {"q": 'a dog’s "toy"', "g": "planted", "k": "3"}
    assert 'client.predict("a dog’s \\"toy\\"", 3, "planted", api_name="/compare")' in python
    body = re.search(r"-d '(.*)'", curl)[1].replace("'\\''", "'")
    reply = httpx.post(f"{address}/gradio_api/run/compare", json=json.loads(body))
    assert len(reply.json()["data"][0]["captions"]) == 3
    expect(dialog.locator("img")).to_have_js_property("naturalWidth", 1200)
    assert visit.small_targets(".tl-share-dialog ") == []
    assert visit.problems == []


PRESS_AT_ONCE = """
new MutationObserver((_, observer) => {
  const share = document.querySelector('.tl-share');
  if (!share) return;
  observer.disconnect();
  share.click();
}).observe(document, { childList: true, subtree: true });
"""


def test_share_need_not_wait_for_the_results_of_an_address(address, browser):
    browser.add_init_script(PRESS_AT_ONCE)
    browser.goto(f"{address}/?q=a+red+bus&g=planted&k=3")
    fields = browser.locator("dialog.tl-share-dialog textarea")
    expect(fields).to_have_count(3, timeout=30_000)
    link, python, _ = (field.input_value() for field in fields.all())
    assert query_of_text(link) == {"q": "a red bus", "g": "planted", "k": "3"}
    assert 'client.predict("a red bus", 3, "planted", api_name="/compare")' in python


def query_of_text(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(text).query).items()}


def test_a_links_preview_shows_its_query_and_what_was_found(address):
    hostile = 'a "dog"><script>'
    page = httpx.get(address, params={"q": hostile, "g": "planted"}).text
    head = page.partition("<script>")[0]
    assert "og:title" in head and "a &quot;dog&quot;&gt;&lt;script&gt;" in head
    picture = re.search('og:image" content="([^"]+)"', head)[1].replace("&amp;", "&")
    drawn = Image.open(io.BytesIO(httpx.get(picture).content))
    assert drawn.size == (1200, 630)
    colours = {drawn.getpixel((40 + 275 + 570 * place, 355)) for place in range(2)}
    assert (251, 250, 248) not in colours
    plain = httpx.get(f"{address}/preview.png").content
    assert httpx.get(f"{address}/preview.png", params={"q": "x" * 5000}).content == plain

    filters = {"q": "shape:portrait", "g": "planted"}  # which rank nothing: two that pass
    head = httpx.get(address, params=filters).text.partition("<script>")[0]
    assert "shape:portrait\u201d, pictures of a gallery" in head
    drawn = Image.open(io.BytesIO(httpx.get(f"{address}/preview.png", params=filters).content))
    for place, ground in enumerate([(57, 143, 120), (125, 205, 120)]):  # of the two that pass
        found = drawn.getpixel((40 + 275 + 570 * place, 355))
        assert max(abs(a - b) for a, b in zip(ground, found, strict=True)) < 12


def test_a_spoilt_address_is_told_in_the_results(address, browser):
    visit = Visit.__new__(Visit)
    visit.page = browser
    browser.goto(f"{address}/?q=a+dog&g=no-such-gallery&tab=captions&k=lots")
    expect(browser.locator(".tl-notice:visible")).to_be_visible(timeout=30_000)


def test_similar_pictures_a_page_and_the_weight_have_addresses_too(address, browser):
    visit = Visit(browser, f"{address}/?q=a+red+bus&g=planted&w=rank")
    expect(browser.get_by_label("by rank (RRF)")).to_be_checked()
    visit.cards().first.click()
    browser.get_by_role("button", name="similar by captions").click()
    expect_query(
        browser, {"q": "a red bus", "g": "planted", "s": f"captions:{image_id(4)}", "w": "rank"}
    )
    browser.reload()
    expect(browser.locator(".tl-anchor:visible")).to_contain_text("a red bus", timeout=30_000)
    browser.go_back()
    expect(browser.get_by_label("by rank (RRF)")).to_be_checked()
    browser.goto(f"{address}/?q=a+red+bus&g=planted&tab=captions&start=5")
    expect(browser.locator(".tl-pages:visible")).to_contain_text("6 to 10 of 12", timeout=30_000)
    browser.get_by_role("button", name="← Previous").click()
    expect_query(browser, {"q": "a red bus", "g": "planted", "tab": "captions"})
    browser.go_back()
    expect(browser.locator(".tl-pages:visible")).to_contain_text("6 to 10 of 12")
    assert visit.problems == []


def copied(page) -> tuple[str, str]:
    """What is copied as Python and as curl."""
    page.get_by_role("button", name="Share").click()
    fields = page.locator("dialog.tl-share-dialog textarea")
    expect(fields).to_have_count(3)
    _, python, curl = (field.input_value() for field in fields.all())
    page.keyboard.press("Escape")
    return python, curl


def answers_of(python: str, curl: str) -> tuple[list[dict], list[dict]]:
    """What the copied lines print when they are run, apart from the time they took."""
    run = partial(subprocess.run, capture_output=True, text=True, timeout=60, check=True)
    printed = run([sys.executable, "-c", python]).stdout.splitlines()
    by_python = [ast.literal_eval(line) for line in printed if line.startswith("{")]
    said = run(["bash", "-c", curl.replace("curl ", "curl -sS -w '\\n' ")]).stdout.splitlines()
    by_curl = [json.loads(line)["data"][0] for line in said]
    for answer in (*by_python, *by_curl):
        del answer["timings_ms"]
    return by_python, by_curl


def ids_of(row) -> list[str]:
    cards = row.locator(".tl-card").all()
    return [json.loads(card.get_attribute("data-picture"))["id"] for card in cards]


def test_the_copied_calls_answer_what_is_shown_with_its_rows_weight_and_page(many, browser):
    wanted = {"q": "stop", "g": "many", "k": "4", "more": "words,text", "w": "0.25"}
    visit = Visit(browser, f"{many}/?{urlencode(wanted)}")
    row = browser.get_by_role("region", name="Text in the pictures")
    expect(row.locator(".tl-card")).to_have_count(1, timeout=30_000)
    by_python, by_curl = answers_of(*copied(browser))
    assert by_python == by_curl
    joined, by_words = by_python
    assert joined["fusion"] == "z-score sum, caption weight 0.25"
    assert joined["fused"][0]["text_rank"] == 1
    fused = browser.get_by_role("region", name="Best of both")
    expect(fused.locator(".tl-card")).to_have_count(4)
    assert [hit["id"] for hit in joined["fused"]] == ids_of(fused)
    by_bm25 = browser.get_by_role("region", name="Words in captions, BM25")
    assert [hit["id"] for hit in by_words["hits"]] == ids_of(by_bm25) == [image_id(1)]
    browser.goto(f"{many}/?{urlencode({'q': 'picture', 'g': 'many', 'start': 10})}")
    expect(browser.locator(".tl-pages:visible")).to_contain_text("11 to 15", timeout=30_000)
    (page,), _ = answers_of(*copied(browser))
    clip = browser.locator(".tl-lens.clip:visible")
    assert [hit["id"] for hit in page["clip"]] == ids_of(clip)
    assert visit.problems == []


def test_an_index_of_an_address_is_chosen_again_and_copied(many, browser):
    wanted = {"q": "dog", "g": "many", "tab": "clip", "index": "ivf", "nprobe": "3"}
    visit = Visit(browser, f"{many}/?{urlencode(wanted)}")
    looked = browser.get_by_text("searched 3 of 10 clusters")
    expect(looked).to_be_visible(timeout=30_000)
    (answer,), (same,) = answers_of(*copied(browser))
    assert answer == same and answer["index"] == "ivf"
    assert [hit["id"] for hit in answer["hits"]] == ids_of(browser.locator(".tl-lens.clip:visible"))
    browser.get_by_role("button", name="Details: how the pictures are searched").locator(
        "visible=true"
    ).click()
    ivf = browser.locator("#clip-index input[value=ivf]")
    expect(ivf).to_be_checked()
    expect(browser.locator("#clip-nprobe input[type=number]")).to_have_value("3")
    browser.locator("#clip-index input[value=flat]").check()
    expect(looked).to_have_count(0)
    expect_query(browser, {"q": "dog", "g": "many", "tab": "clip"})
    browser.go_back()
    expect(looked).to_be_visible()
    expect(ivf).to_be_checked()
    expect_query(browser, wanted)
    browser.reload()
    expect(looked).to_be_visible(timeout=30_000)
    assert visit.problems == []
