"""The evaluation tab in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from core.gallery.figures.metrics_file import METRICS_FILE
from core.ui.parts.results.measured import case_chips, measured_line
from core.ui.parts.results.states import EXAMPLES
from tests.core.measured import planted_metrics
from tests.e2e.visiting import Visit
from tests.planted_app import HOSTILE_CAPTION, image_id, planted_shelf, serving


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The app over a gallery with figures, and one without."""
    shelf = planted_shelf(tmp_path_factory.mktemp("measured"), [("planted", 12), ("three", 3)])
    folder = shelf.entries[0].gallery.folder
    metrics = planted_metrics(folder, hostile=HOSTILE_CAPTION)
    examples = tuple(
        example.model_copy(update={"image_id": image_id(row), "shown_instead": image_id(row + 4)})
        for row, example in enumerate(metrics.solved_by_one)
    )
    metrics = metrics.model_copy(update={"solved_by_one": examples})
    (folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")
    with serving(shelf) as url:
        yield url


@pytest.fixture
def measured_later(tmp_path):
    """A gallery without figures, and those that it will get."""
    entry = planted_shelf(tmp_path).entries[0]
    return entry, planted_metrics(entry.gallery.folder)


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(1380, 900, "light"), (1380, 900, "dark"), (390, 844, "light")],
)
def test_the_tab_reads_well_everywhere(new_page, measured, width, height, scheme):
    page = new_page(viewport={"width": width, "height": height})
    visit = Visit(page, measured + ("/?__theme=dark" if scheme == "dark" else ""))
    page.get_by_role("tab", name="Which is better?").click()
    heading = page.get_by_role("heading", name="The CLIP lens, on these pictures")
    expect(heading).to_be_visible()
    expect(page.get_by_role("heading", name="Is a faster index worth it?")).to_be_visible()
    clip, track = (
        page.locator(f".tl-m-chart:nth-child(2) .clip {part}").bounding_box()
        for part in (".bar", ".track")
    )
    assert clip["width"] == pytest.approx(0.6 * track["width"], abs=1)
    assert page.locator(".tl-m-figure svg.chart").count() == 5
    assert visit.overflow() == 0
    assert visit.low_contrast(".tl-measured") == []
    assert page.evaluate("window.pwned") is None
    assert visit.problems == [] and visit.elsewhere == []


def test_a_case_opens_large_and_another_gallery_says_why_it_has_no_figures(new_page, measured):
    page = new_page(viewport={"width": 1380, "height": 900})
    visit = Visit(page, measured)
    page.get_by_role("tab", name="Which is better?").click()
    page.locator(".tl-m-case .tl-card").first.click()
    dialog = page.locator("dialog.tl-dialog")
    expect(dialog.locator("blockquote")).to_have_text("a brown dog runs on the beach")
    expect(dialog.get_by_text("1 of 2")).to_be_visible()
    expect(dialog.get_by_text("Find similar pictures")).to_have_count(0)
    page.keyboard.press("Escape")
    visit.choose_gallery("three")
    expect(page.get_by_text("This gallery has not been evaluated.")).to_be_visible()
    assert visit.problems == []


def test_compare_tells_what_was_measured_and_offers_what_only_one_lens_solves(new_page, measured):
    page = new_page()
    visit = Visit(page, measured)
    verdict = page.locator(".tl-verdict:visible")
    expect(page.locator(".tl-only:visible")).to_have_text(
        ["only captions find this", "only CLIP finds this"]
    )
    visit.search("a dog on the beach")
    expect(page.locator(".tl-agree:visible")).to_be_visible()
    expect(verdict).to_have_count(0)  # a visitor's own words have the page to themselves
    visit.search(EXAMPLES[0])
    expect(verdict).to_have_text(
        "Of 100 searches measured here, found: captions 40, CLIP 60, both 70"
    )
    page.locator(".tl-only.clip:visible").click()
    expect(page.locator("#compare-query input")).to_have_value(f"a dog {HOSTILE_CAPTION}")
    expect(page.locator(".tl-only.clip:visible")).to_have_attribute("aria-pressed", "true")
    verdict.click()
    expect(page.get_by_role("heading", name="The CLIP lens, on these pictures")).to_be_visible()
    assert page.evaluate("window.pwned") is None

    page.get_by_role("tab", name="Compare").click()
    visit.choose_gallery("three")  # which was not measured
    visit.search(EXAMPLES[0])
    expect(page.locator(".tl-agree:visible")).to_be_visible()
    expect(page.locator(".tl-verdict:visible, .tl-only:visible")).to_have_count(0)
    assert visit.problems == []


def test_figures_that_come_later_are_shown_without_a_restart(measured_later):
    entry, figures = measured_later
    assert measured_line(entry) == "" and case_chips(entry) == ""
    (entry.gallery.folder / METRICS_FILE).write_text(figures.to_json(), encoding="utf-8")
    assert "CLIP 60" in measured_line(entry)
    assert case_chips(entry).count("data-query=") == 2
