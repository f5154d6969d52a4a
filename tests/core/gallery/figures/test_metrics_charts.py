"""Charts over planted figures: marks where the figures put them, inside the frame, and said."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from core.gallery.figures.metrics_charts import (
    CHART_METRICS,
    group_chart,
    index_chart,
    recall_chart,
    score_chart,
    share,
)
from core.gallery.figures.metrics_file import Metrics
from tests.core.measured import BASE, planted_metrics

SVG = "{http://www.w3.org/2000/svg}"
LENSES = ("captions", "clip", "fused", "bm25", "random")


@pytest.fixture
def metrics(tmp_path) -> Metrics:
    (tmp_path / "manifest.json").write_text("{}")
    return planted_metrics(tmp_path)


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


def test_bars_are_as_long_as_their_figures(metrics):
    chart = ElementTree.fromstring(recall_chart(metrics, "R@1"))
    tracks, bars = (chart.findall(f".//{SVG}rect[@class='{name}']") for name in ("track", "bar"))
    shares = [
        float(bar.get("width")) / float(track.get("width"))
        for bar, track in zip(bars, tracks, strict=True)
    ]
    assert shares == pytest.approx([BASE[lens] for lens in LENSES], abs=1e-3)
    assert {bar.get("x") for bar in bars} == {track.get("x") for track in tracks}
    left, width = numbers(tracks[0], "x", "width")
    for whisker, lens in zip(chart.findall(f".//{SVG}path[@class='whisker']"), LENSES, strict=True):
        low, high = re.match(r"M([-\d.]+) \d+H([\d.]+)", whisker.get("d")).groups()
        ends = [(float(end) - left) / width for end in (low, high)]
        assert ends == pytest.approx([BASE[lens] - 0.05, BASE[lens] + 0.05], abs=1e-3)
    assert "Caption lens 20.0 percent, 15.0 to 25.0; CLIP lens 30.0" in chart.get("aria-label")


def test_of_few_queries_counts_are_told_and_of_many_percents(metrics):
    assert share(11 / 12, 12) == "11 of 12"
    assert share(11 / 12, 49) == "45 of 49"
    assert share(11 / 12, 50) == "91.7 %"
    assert share(None, 12) == ""
    clip = metrics.lenses["clip"].model_copy(update={"queries": 40})
    few = metrics.model_copy(update={"lenses": {"clip": clip}})
    assert "CLIP lens 24 of 40." in recall_chart(few, "R@5")
    assert ">24/40</text>" in recall_chart(few, "R@5")
    assert "CLIP lens 35 percent." in recall_chart(few, "MRR")


def test_the_outlines_of_scores_are_as_high_as_their_shares(metrics):
    chart = ElementTree.fromstring(score_chart("clip", metrics.scores["clip"]))
    for name in ("right", "wrong"):
        path = chart.find(f"{SVG}path[@class='{name}']").get("d")
        ground, *tops, end = (float(y) for y in re.findall(r"(?:M[\d.]+ |V)([-\d.]+)", path))
        assert end == ground and len(tops) == 3
        heights = [ground - top for top in tops]
        shares = getattr(metrics.scores["clip"], name)
        full = ground - 12
        assert heights == pytest.approx([full * share / 0.6 for share in shares], abs=0.1)
        xs = [float(x) for x in re.findall(r"[MH]([-\d.]+)", path)]
        assert xs == pytest.approx([40, 40 + 310 / 3, 40 + 620 / 3, 350], abs=0.1)
    assert "right pictures score 0.40 on average, the best wrong ones 0.22" in chart.get(
        "aria-label"
    )


def test_the_marks_of_an_index_stay_inside_and_say_their_numbers(metrics):
    for name, curve in metrics.index.items():
        chart = ElementTree.fromstring(index_chart(name, curve))
        dots = chart.findall(f"{SVG}circle[@class='dot']")
        assert len(dots) == len(curve.points) - 1
        places = [numbers(dot, "cx", "cy") for dot in dots]
        assert all(40 <= x <= 350 and 12 <= y <= 238 - 64 for x, y in places)
        assert places == sorted(places, key=lambda place: (place[0], -place[1]))
    said = ElementTree.fromstring(index_chart("clip", metrics.index["clip"])).get("aria-label")
    assert "flat: 100% in 0.006 ms; IVF nprobe 1: 50% in 0.05 ms" in said


def test_a_group_has_a_mark_for_each_lens_where_its_share_is(metrics):
    chart = ElementTree.fromstring(group_chart(metrics.groups[0]))
    discs = {circle.get("class"): float(circle.get("cx")) for circle in chart.iter("circle")}
    assert discs == pytest.approx({"captions": 4 + 152 * 0.4, "fused": 4 + 152 * 0.7}, abs=0.1)
    diamond = chart.find("path[@class='clip']").get("d")
    assert diamond.startswith(f"M{4 + 152 * 0.6 - 6:.1f} ")


def test_a_name_from_the_file_is_no_markup(metrics):
    hostile = '"><script>alert(1)</script>'
    chart = ElementTree.fromstring(index_chart(hostile, metrics.index["clip"]))
    assert not list(chart.iter(f"{SVG}script"))
    assert hostile in chart.get("class")


@pytest.mark.parametrize("metric", CHART_METRICS)
def test_a_chart_is_a_file_of_its_own(metrics, metric):
    chart = ElementTree.fromstring(recall_chart(metrics, metric))
    assert chart.tag == f"{SVG}svg"
    assert {rect.get("fill") for rect in chart.findall(f"{SVG}rect[@class='paper']")} == {"#fff"}
