"""Reading ``metrics.json``: whole, of this very build, or one sentence why not."""

from __future__ import annotations

import json

import pytest

from core.gallery.metrics_file import METRICS_FILE, Metrics, manifest_sha256, read_metrics
from tests.core.measured import planted_metrics


def test_figures_survive_the_file_under_the_names_of_the_literature(planted):
    metrics = planted_metrics(planted.folder)
    (planted.folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")
    assert read_metrics(planted.folder) == metrics
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
    found = read_metrics(planted.folder)
    assert not isinstance(found, Metrics)
    assert sentence in found


def test_figures_of_another_build_are_refused(planted):
    metrics = planted_metrics(planted.folder)
    (planted.folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")
    manifest = planted.folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert metrics.provenance.manifest_sha256 != manifest_sha256(planted.folder)
    assert "another build" in str(read_metrics(planted.folder))


def test_figures_leave_the_gallery_valid(planted):
    (planted.folder / METRICS_FILE).write_text(planted_metrics(planted.folder).to_json())
    planted.manifest.verify(planted.folder, planted.profile)
