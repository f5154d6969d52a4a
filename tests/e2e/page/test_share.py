"""Addresses of views: kept, restored, shared; in a browser over planted galleries."""

from __future__ import annotations

import io
import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.e2e.visiting import Visit
from tests.planted_app import image_id


@pytest.fixture
def browser(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


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
