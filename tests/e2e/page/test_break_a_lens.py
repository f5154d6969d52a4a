"""Break a lens: pairs that mean different things, asked live, and words that one lens misses."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from core.ui.tabs.break_a_lens import LIMITS, Challenges
from tests.e2e.visiting import PHONE, Visit


@pytest.mark.parametrize("visit", [{"viewport": PHONE, "color_scheme": "dark"}], indirect=True)
def test_a_pair_is_asked_and_a_picture_described(visit: Visit):
    page = visit.page
    page.get_by_role("tab", name="Break a lens").click()
    first, second = LIMITS[0].pair
    page.get_by_role("button", name=first, exact=True).click()
    told = page.get_by_text(re.compile(r"\d of 5 pictures are the same for both"))
    expect(told).to_have_count(2)
    expect(page.get_by_role("button", name=first, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_role("button", name=second, exact=True).click()
    expect(page.get_by_role("button", name=second, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    field = page.locator("#challenge-words input")
    field.fill("dog beach")
    field.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Caption lens place")).to_be_visible()
    page.get_by_role("button", name="Another picture").click()
    expect(field).to_have_value("")


def test_a_lens_is_broken_once_a_picture(shelf):
    entry = shelf.entry()
    challenges = Challenges(shelf)
    for _ in range(200):
        challenges.picture("anna", "", another=True)
        said = challenges.attempt("anna", "", "dog beach")
        if "You broke" in said:
            again = challenges.attempt("anna", "", "dog beach")
            count = re.search(r"Broken so far: (.*), in (\d+) tries", again)
            assert count
            assert sum(map(int, re.findall(r"\d+", count[1]))) == 1
            return
    ranks = [
        [hit.id for hit in entry.service.by_text("dog beach", k=12, lens=lens).hits]
        for lens in ("captions", "clip")
    ]
    assert not any(
        (ranks[0].index(i) < 5 and ranks[1].index(i) >= 10)
        or (ranks[1].index(i) < 5 and ranks[0].index(i) >= 10)
        for i in ranks[0]
    )
