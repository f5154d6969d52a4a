"""The evaluation tab over planted figures: what it says, draws, escapes and asks for."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from core.gallery.figures.metrics_file import METRICS_FILE
from core.ui.parts.results.measured import measured_line
from core.ui.tabs.evaluation import evaluation_view
from tests.core.measured import planted_metrics
from tests.planted_app import HOSTILE_CAPTION, image_id, planted_shelf

VOID = {"img", "br", "path", "circle", "rect"}


class Balanced(HTMLParser):
    """Notes tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def measured_shelf(tmp_path):
    return planted_shelf(tmp_path, [("planted", 12)])


def figures_of(shelf, hostile="", **changes):
    folder = shelf.entries[0].gallery.folder
    metrics = planted_metrics(folder, hostile, **changes)
    examples = tuple(
        example.model_copy(update={"image_id": image_id(row), "shown_instead": image_id(row + 1)})
        for row, example in enumerate(metrics.solved_by_one)
    )
    metrics = metrics.model_copy(update={"solved_by_one": examples})
    (folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")
    return metrics


def test_without_references_it_says_why_and_how_to_get_some(measured_shelf):
    view = evaluation_view(measured_shelf, None)
    assert "has not been evaluated" in view
    assert "nobody did for these pictures" in view
    assert "--caption-column" in view


def test_damaged_figures_are_not_shown(measured_shelf):
    (measured_shelf.entries[0].gallery.folder / METRICS_FILE).write_text("{}")
    assert "another format or are damaged" in evaluation_view(measured_shelf, "planted")


def test_the_verdict_names_the_better_lens_only_where_luck_is_unlikely(measured_shelf):
    figures_of(measured_shelf)
    view = evaluation_view(measured_shelf, None)
    assert "The CLIP lens, on these pictures" in view
    assert "first five for 60 queries in 100, against 40 with the caption lens" in view
    assert "p &lt; 0.001" in view
    tests = planted_metrics(measured_shelf.entries[0].gallery.folder).tests
    figures_of(measured_shelf, tests=[tests[0].model_copy(update={"p_value": 0.2}).model_dump()])
    view = evaluation_view(measured_shelf, None)
    assert "Neither, on these pictures" in view and "p = 0.200" in view


def test_every_section_is_there_and_every_tag_is_closed(measured_shelf):
    figures_of(measured_shelf)
    view = evaluation_view(measured_shelf, None)
    for heading in (
        "How often the right picture is found",
        "Where they differ",
        "Queries that only one of them solves",
        "How sure a score is",
        "Is a faster index worth it?",
        "The captions themselves",
        "What the numbers say, and what not",
    ):
        assert f"<h2>{heading}</h2>" in view
    parser = Balanced()
    parser.feed(view)
    assert parser.open == []
    cases = re.findall(r'<li class="tl-m-case">.*?</p></li>', view, re.S)
    assert len(cases) == 2
    assert f"{image_id(0)}.webp" in cases[0] and f"{image_id(1)}.webp" in cases[0]
    assert "Caption lens: 1st" in cases[0] and "CLIP lens: 40th" in cases[0]


def test_words_of_models_and_people_are_never_markup(measured_shelf):
    figures_of(measured_shelf, hostile=HOSTILE_CAPTION)
    parser = Balanced()
    parser.feed(evaluation_view(measured_shelf, None))
    assert "script" not in parser.tags and "b" not in parser.tags and "svg" in parser.tags
    view = evaluation_view(measured_shelf, None)
    assert "<b>bold" not in view and 'onerror="' not in view
    assert view.count("&lt;b&gt;bold") >= 3


def test_a_gallery_that_is_being_measured_says_so(measured_shelf):
    (measured_shelf.entries[0].gallery.folder / METRICS_FILE).unlink(missing_ok=True)
    assert "being measured" not in evaluation_view(measured_shelf, "planted")
    measured_shelf.awaited = SimpleNamespace(trouble="")
    assert "being measured at this moment" in evaluation_view(measured_shelf, "planted")


def test_cider_is_left_out_where_it_was_not_worked_out(measured_shelf):
    figures_of(measured_shelf)
    assert "CIDEr" in evaluation_view(measured_shelf, None)
    folder = measured_shelf.entries[0].gallery.folder
    quality = planted_metrics(folder).captions.model_copy(update={"cider": None})
    figures_of(measured_shelf, captions=quality.model_dump())
    view = evaluation_view(measured_shelf, None)
    assert "CIDEr" not in view and "BLEU-4" in view


def test_of_few_queries_the_page_tells_how_many(measured_shelf):
    entry = measured_shelf.entries[0]
    figures = figures_of(measured_shelf)
    assert "Of 100 searches measured here" in measured_line(entry)
    few = {
        name: each.model_copy(update={"queries": 40}).model_dump(by_alias=True, exclude_none=True)
        for name, each in figures.lenses.items()
    }
    figures_of(measured_shelf, lenses=few, queries=40)
    view = evaluation_view(measured_shelf, None)
    assert "for 24 of 40 queries, against 16 of 40 with the caption lens" in view
    assert ">24/40</text>" in view and "<td>24 of 40<br>" in view
    assert '<td class="tl-m-number clip">24 of 40</td>' in view
    found = re.sub("<.*?>", "", measured_line(entry))
    assert found == "Of 40 searches measured here, found: captions 16, CLIP 24, both 28"


def test_a_section_without_figures_is_left_out(measured_shelf):
    figures_of(measured_shelf, captions=None, groups=[], index={})
    view = evaluation_view(measured_shelf, None)
    for heading in ("The captions themselves", "Where they differ", "Is a faster index worth it?"):
        assert heading not in view


@pytest.mark.parametrize(
    ("flat_ms", "ivf_ms", "recall", "word"),
    [
        (0.2, 0.1, 0.99, "Hardly: comparing with all 60"),
        (40.0, 0.5, 0.97, "Yes: comparing with all 60 takes 40 ms; IVF finds 97% of the same"),
        (0.2, 0.3, 1.0, "No: comparing with all 60 takes 0.20 ms"),
        (40.0, 0.5, 0.8, "no setting of IVF finds 95 %"),
    ],
)
def test_whether_ivf_is_worth_it_is_read_off_the_curve(
    measured_shelf, flat_ms, ivf_ms, recall, word
):
    curve = planted_metrics(measured_shelf.entries[0].gallery.folder).index["clip"]
    flat, ivf, *_ = curve.points
    points = (
        flat.model_copy(update={"p50_ms": flat_ms}),
        ivf.model_copy(update={"p50_ms": ivf_ms, "recall": recall}),
    )
    figures_of(
        measured_shelf, index={"clip": curve.model_copy(update={"points": points}).model_dump()}
    )
    assert word in evaluation_view(measured_shelf, None)
