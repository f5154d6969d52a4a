"""The evaluation tab in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from core.gallery.figures.metrics_file import METRICS_FILE
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


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(1380, 900, "light"), (1380, 900, "dark"), (390, 844, "light")],
)
def test_the_tab_reads_well_everywhere(chromium, measured, width, height, scheme):
    context = chromium.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    visit = Visit(page, measured + ("/?__theme=dark" if scheme == "dark" else ""))
    page.get_by_role("tab", name="Which is better?").click()
    heading = page.get_by_role("heading", name="The CLIP lens, on these pictures")
    expect(heading).to_be_visible()
    expect(page.get_by_role("heading", name="Is IVF worth it?")).to_be_visible()
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
    context.close()


def test_a_case_opens_large_and_another_gallery_says_why_it_has_no_figures(chromium, measured):
    context = chromium.new_context(viewport={"width": 1380, "height": 900})
    page = context.new_page()
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
    context.close()
