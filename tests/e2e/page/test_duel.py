"""A blind duel in the browser: nothing tells whose rows they are before the vote."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

import core
from core.duel.votes import CONTENDERS, Votes
from tests.e2e.visiting import Visit
from tests.planted_app import launched

ROOT = Path(core.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("votes") / "votes.sqlite"


@pytest.fixture(scope="module")
def address(shelf, file):
    with launched(shelf, votes=Votes(file)) as page:
        yield page.local_url.rstrip("/")


def test_a_visitor_votes_blindly_and_then_sees(visit: Visit, file: Path):
    page = visit.page
    page.get_by_role("tab", name="Blind duel").click()
    field = page.locator("#duel-query input")
    expect(field).not_to_have_value("")  # words stand ready
    field.fill("dog beach")
    field.press("Enter")
    rows = page.get_by_role("region", name=re.compile("^Row [AB]$"))
    expect(rows).to_have_count(2)
    expect(page.get_by_role("button", name="A is better")).to_be_visible()
    blind = page.locator(".tl-results:visible").last.inner_html()
    assert not re.search(r"caption lens|clip|best of both|fused|score|rank", blind, re.I)
    page.get_by_role("button", name="A is better").click()
    expect(page.get_by_role("status").filter(has_text="You chose A")).to_be_visible()
    expect(page.get_by_text(re.compile("A was "))).to_be_visible()
    expect(page.get_by_role("button", name="A is better")).to_be_hidden()
    (vote,) = Votes(file).all()
    assert (vote.query, vote.choice) == ("dog beach", "first")
    assert {vote.first, vote.second} < set(CONTENDERS)
    done = subprocess.run(
        [sys.executable, "-m", "precompute", "votes", str(file), "--out", str(file) + ".csv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "all: 1 votes" in done.stdout
    table = Path(str(file) + ".csv").read_text().splitlines()
    assert table[1] == f"{vote.gallery},dog beach,other,{vote.first},{vote.second},first"


def test_words_stand_ready_and_what_will_happen_is_told(visit: Visit):
    page = visit.page
    page.get_by_role("tab", name="Blind duel").click()
    field = page.locator("#duel-query input")
    expect(field).not_to_have_value("")
    expect(page.locator(".tl-duel-start li")).to_have_count(3)
    field.fill("my own words")
    page.get_by_role("tab", name="About").click()
    page.get_by_role("tab", name="Blind duel").click()
    expect(page.locator(".tl-duel-start")).to_be_visible()
    expect(field).to_have_value("my own words")
    assert visit.low_contrast(".tl-duel-start") == []


def test_what_is_typed_before_words_stand_ready_stays(visit: Visit):
    page, held = visit.page, visit.holding_first("data")
    page.get_by_role("tab", name="Blind duel").click()
    field = page.locator("#duel-query input")
    field.fill("my own words")
    visit.let_go(held)
    page.wait_for_timeout(300)
    expect(field).to_have_value("my own words")


def test_words_do_not_come_between_a_visitor_and_the_field(visit: Visit):
    page, held = visit.page, visit.holding_first("data")
    page.get_by_role("tab", name="Blind duel").click()
    field = page.locator("#duel-query input")
    field.focus()
    visit.let_go(held)
    page.wait_for_timeout(300)
    expect(field).to_have_value("")


def test_a_drawn_query_is_answered_and_a_vote_needs_a_duel(visit: Visit):
    page = visit.page
    page.get_by_role("tab", name="Blind duel").click()
    page.get_by_role("button", name="Draw one").click()
    expect(page.locator("#duel-query input")).not_to_have_value("")
    shown = page.get_by_role("region", name="Row A").or_(page.get_by_role("alert"))
    expect(shown.first).to_be_visible()
    expect(page.get_by_text("Draw one")).to_be_visible()
