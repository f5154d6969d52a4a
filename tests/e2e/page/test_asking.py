"""Words and results stay together, in a real browser: tabs, galleries, pages, memory, export."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from playwright.sync_api import expect


def heading(visit, name: str):
    return visit.page.get_by_role("heading", name=name)


def first_picture(visit, inside: str) -> str:
    source = visit.page.locator(f"{inside} img:visible").first.get_attribute("src")
    return source.split("/")[-1][:16]


def test_another_tab_and_another_gallery_answer_the_same_words(visit, shelf):
    visit.search("boat sea")
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    visit.open_tab("CLIP")
    expect(visit.page.locator("#clip-query input")).to_have_value("boat sea")
    expect(visit.cards(".tl-large .tl-lens.clip")).to_have_count(5)
    hits = shelf.entry().service.by_text("boat sea", lens="clip").hits
    assert first_picture(visit, ".tl-large .tl-lens.clip") == hits[0].id
    visit.search("dog beach")
    expect(visit.page.locator(".tl-large .tl-stage:visible")).to_have_attribute(
        "data-asked", "dog beach"
    )
    visit.open_tab("Compare")
    expect(visit.page.locator("#compare-query input")).to_have_value("dog beach")
    expect(visit.page.locator(".tl-stage:visible")).to_have_attribute("data-asked", "dog beach")
    visit.choose_gallery("three")
    expect(visit.cards(".tl-lens.captions")).to_have_count(3)
    expect(visit.page.locator(".tl-stage:visible")).to_have_attribute("data-asked", "dog beach")
    visit.open_tab("Captions")
    expect(visit.cards(".tl-large .tl-lens.captions")).to_have_count(3)


def test_a_gallery_is_looked_through_and_a_ranking_goes_on(visit, shelf):
    visit.page.get_by_role("button", name="Browse all 12").locator("visible=true").click()
    expect(visit.cards()).to_have_count(12)
    visit.open_tab("Captions")
    visit.search("dog beach")
    expect(visit.page.get_by_text("1 to 5 of 12")).to_be_visible()
    visit.page.get_by_role("button", name="Next →").locator("visible=true").click()
    expect(visit.page.get_by_text("6 to 10 of 12")).to_be_visible()
    visit.page.get_by_role("button", name="Next →").locator("visible=true").click()
    expect(visit.page.get_by_text("11 to 12 of 12")).to_be_visible()
    ranks = visit.page.locator(".tl-large .tl-rank:visible")
    assert ranks.all_inner_texts() == ["11", "12"]
    hits = shelf.entry().service.by_text("dog beach", 12, "captions").hits
    assert first_picture(visit, ".tl-large .tl-lens.captions") == hits[10].id
    visit.page.get_by_role("button", name="← Previous").locator("visible=true").click()
    expect(visit.page.get_by_text("6 to 10 of 12")).to_be_visible()


def test_what_was_asked_is_offered_again_and_can_be_forgotten(visit):
    for words in ("dog beach", "boat sea", "dog beach"):
        visit.search(words)
        expect(visit.page.locator(".tl-stage:visible")).to_have_attribute("data-asked", words)
    offered = visit.page.locator(".tl-recent button")
    expect(offered).to_have_count(0)
    visit.page.get_by_role("button", name="Clear").locator("visible=true").click()
    expect(offered).to_have_text(["dog beach", "boat sea"])
    offered.last.click()
    expect(visit.page.locator(".tl-stage:visible")).to_have_attribute("data-asked", "boat sea")
    expect(visit.page.locator("#compare-query input")).to_have_value("boat sea")
    expect(offered).to_have_count(0)
    visit.open_tab("About")
    visit.page.get_by_role("button", name="Forget them").click()
    assert visit.page.evaluate("localStorage.getItem('twolens-recent')") is None


def test_results_are_saved_as_a_table_and_their_links_copied(visit, address, shelf):
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.search("dog frisbee snow")
    expect(visit.cards(".tl-lens.both")).to_have_count(5)
    with visit.page.expect_download() as saved:
        visit.page.get_by_role("button", name="Save as CSV").locator("visible=true").click()
    text = Path(saved.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["lens"] for row in rows] == [
        *5 * ["Caption lens"], *5 * ["CLIP lens"], *5 * ["Best of both"]
    ]  # fmt: skip
    best = shelf.entry().service.by_text("dog frisbee snow", lens="clip").hits[0]
    assert rows[5]["rank"] == "1"
    assert float(rows[5]["score"]) == round(best.score, 2)
    assert rows[5]["licence"] == "CC BY 2.0"
    assert rows[5]["picture"].startswith(f"{address}/large/planted/{best.id}.webp")
    visit.page.get_by_role("button", name="Copy links").locator("visible=true").click()
    expect(visit.page.locator("#tl-live")).to_have_text(re.compile("links copied"))
    assert best.id in visit.page.evaluate("navigator.clipboard.readText()")


def address_of(visit) -> dict:
    answers = visit.page.locator(".tl-address").evaluate_all(
        "all => all.filter(e => e.parentElement.offsetParent).map(e => e.dataset.address)"
    )
    return json.loads(answers[0])


def test_words_that_follow_a_choice_at_once_are_searched_in_the_gallery_chosen(visit):
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    held = visit.holding_first('"name":"three"')
    visit.choose_gallery("three")
    visit.search("boat sea")
    stage = visit.page.locator(".tl-stage:visible")
    expect(stage).to_have_attribute("data-asked", "boat sea")
    assert address_of(visit)["g"] == "three"
    assert len(held) == 1  # the choice was not answered yet


def test_an_answer_of_the_gallery_before_is_not_shown_as_that_of_the_chosen_one(visit):
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    held = visit.holding_first("boat sea")
    visit.search("boat sea")
    visit.choose_gallery("three")
    expect(visit.cards(".tl-lens.clip")).to_have_count(3)
    visit.let_go(held)
    again = visit.page.locator('.tl-stage[data-asked="boat sea"]:visible')
    expect(again.locator(".tl-lens.clip .tl-card")).to_have_count(3)
    assert address_of(visit)["g"] == "three"
