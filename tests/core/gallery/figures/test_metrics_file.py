"""Reading ``metrics.json``: whole, of this very build, or one sentence why not."""

from __future__ import annotations

import json

import pytest

from core.gallery.figures.metrics_file import METRICS_FILE, Metrics, read_metrics
from core.gallery.reader import Gallery
from tests.core.measured import planted_metrics
from tests.core.planted import forge_manifest


def figures_of(planted):
    return read_metrics(Gallery.open(planted.folder, planted.profile))


def test_figures_survive_the_file_under_the_names_of_the_literature(planted):
    metrics = planted_metrics(planted.folder)
    (planted.folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")
    assert figures_of(planted) == metrics
    content = json.loads(metrics.to_json())
    assert content["lenses"]["captions"]["R@5"] == pytest.approx(0.4)
    assert content["lenses"]["captions"]["ci95"]["R@5"] == pytest.approx([0.35, 0.45])
    assert "mAP" not in content["lenses"]["captions"]
    assert content["queries"] == 300


def test_a_figure_is_found_by_its_name(planted):
    figures = planted_metrics(planted.folder).lenses["clip"]
    assert figures.value("R@10") == pytest.approx(0.7)
    assert figures.value("mAP") is None
    assert figures.value("median_rank") == 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has not been evaluated"),
        (b"\xff\xfe", "cannot be read"),
        (b"{}", "another format"),
        (b"[1", "another format"),
        (b'{"format": 2}', "another format"),
    ],
)
def test_absent_or_damaged_figures_are_a_sentence(planted, content, sentence):
    if content is not None:
        (planted.folder / METRICS_FILE).write_bytes(content)
    found = figures_of(planted)
    assert not isinstance(found, Metrics)
    assert sentence in found


def test_figures_of_another_build_are_refused(planted):
    metrics = planted_metrics(planted.folder)
    (planted.folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")
    forge_manifest(planted.folder, created_at="2027-01-01T00:00:00Z")
    gallery = Gallery.open(planted.folder, planted.profile)
    assert metrics.provenance.manifest_sha256 != gallery.manifest_sha256
    assert "another build" in str(figures_of(planted))


def test_figures_leave_the_gallery_valid(planted):
    (planted.folder / METRICS_FILE).write_text(planted_metrics(planted.folder).to_json())
    assert Gallery.open(planted.folder, planted.profile).manifest == planted.manifest


def test_figures_of_before_kinds_were_asked_on_purpose_are_read(planted):
    content = json.loads(planted_metrics(planted.folder).to_json())
    del content["kinds"], content["provenance"]["written_sha256"]
    (planted.folder / METRICS_FILE).write_text(json.dumps(content), encoding="utf-8")
    found = figures_of(planted)
    assert isinstance(found, Metrics)
    assert (found.kinds, found.provenance.written_sha256) == ((), "")
    assert found.groups == planted_metrics(planted.folder).groups
