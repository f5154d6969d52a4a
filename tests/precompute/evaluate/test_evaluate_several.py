"""An evaluation of a gallery with several captions an image, each way beside numpy's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.records import Caption
from precompute.evaluate.command import table
from precompute.evaluate.gallery_metrics import evaluate
from precompute.evaluate.rankings import best_scorer
from precompute.evaluate.report import markdown
from tests.core.planted import unit_rows
from tests.precompute.evaluate.test_evaluate import EACH, IMAGES, Planted

CAPTIONS = 4


@pytest.fixture(params=["mean", "best"])
def several(request, tmp_path) -> Planted:
    """Each picture has four captions, every one the truth through its own noise."""
    planted = Planted(tmp_path)
    generator = np.random.default_rng(3)
    truth = np.repeat(unit_rows(IMAGES, 24, seed=7), CAPTIONS, axis=0)
    seen = truth + 1.5 * generator.normal(size=truth.shape) / np.sqrt(24)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    planted.images["captions"] = seen.astype(np.float32)
    planted.records = [
        replace(
            record,
            more_captions=tuple(
                Caption(f"word{row} again {number}") for number in range(1, CAPTIONS)
            ),
        )
        for row, record in enumerate(planted.records)
    ]
    planted.write(captions_per_image=CAPTIONS, caption_pooling=request.param)
    planted.pooling = request.param
    return planted


def recalls(scores: np.ndarray) -> list[float]:
    own = scores[np.arange(IMAGES * EACH), np.repeat(np.arange(IMAGES), EACH)]
    ranks = 1 + (scores > own[:, None] + 1e-9).sum(axis=1)
    return [float((ranks <= k).mean()) for k in (1, 5, 10)]


def test_each_way_has_figures_and_the_lens_has_those_of_its_gallery(several):
    found = evaluate(several.plan(), several.models)
    queries = several.queries["captions"].astype(np.float64)
    captions = several.images["captions"].astype(np.float64).reshape(IMAGES, CAPTIONS, 24)
    sums = captions.sum(axis=1)
    mean = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    expected = {
        "captions_first": recalls(queries @ captions[:, 0].T),
        "captions_mean": recalls(queries @ mean.T),
        "captions_best": recalls(np.einsum("qd,ncd->qnc", queries, captions).max(axis=2)),
    }
    assert len({tuple(values) for values in expected.values()}) == 3
    expected["captions"] = expected[f"captions_{several.pooling}"]
    for way, values in expected.items():
        figures = found.lenses[way]
        assert [figures.value(f"R@{k}") for k in (1, 5, 10)] == pytest.approx(values, abs=1e-6)
    compared = {(test.first, test.second) for test in found.tests}
    assert {("captions", "captions_first"), ("captions_mean", "captions_best")} <= compared
    vectors = {curve: found.index[curve].vectors for curve in ("captions", "clip")}
    many = IMAGES * (CAPTIONS if several.pooling == "best" else 1)
    assert vectors == {"captions": many, "clip": IMAGES}
    assert found.index["captions"].points[-1].recall == 1.0
    assert "captions_best" in table(found)
    assert "| Caption lens, mean of the captions |" in markdown(found)


def test_words_of_every_caption_count_for_bm25(several):
    record = several.records[5]
    several.records[5] = replace(record, references=("word5", *record.references[1:]))
    texts = several.models.sentence.texts
    texts["word5"] = texts[record.references[0]]
    several.models.clip.texts["word5"] = several.models.clip.texts[record.references[0]]
    several.write(captions_per_image=CAPTIONS, caption_pooling=several.pooling)
    without = [replace(each, more_captions=()) for each in several.records]
    all_words = evaluate(several.plan(), several.models).lenses["bm25"].r_at_1
    several.images["captions"] = several.images["captions"][::CAPTIONS].copy()
    several.write(records=without)
    assert all_words == pytest.approx(
        evaluate(several.plan(), several.models).lenses["bm25"].r_at_1 + 1 / (IMAGES * EACH)
    )


def test_one_caption_an_image_has_one_way(tmp_path):
    planted = Planted(tmp_path)
    found = evaluate(planted.plan(), planted.models)
    assert not [lens for lens in found.lenses if lens.startswith("captions_")]


def test_the_best_of_uneven_groups_over_many_small_parts(monkeypatch):
    monkeypatch.setattr("precompute.evaluate.rankings.PART_BYTES", 400)
    counts = np.random.default_rng(0).integers(1, 6, 300)
    first = np.concatenate([[0], np.cumsum(counts)])
    vectors, queries = unit_rows(int(first[-1]), 8), unit_rows(9, 8, seed=1)
    scores = best_scorer(queries, vectors, first)(slice(2, 9))
    products = queries[2:9].astype(np.float64) @ vectors.T.astype(np.float64)
    expected = [
        [products[row, a:b].max() for a, b in zip(first[:-1], first[1:], strict=True)]
        for row in range(7)
    ]
    assert np.allclose(scores, expected, atol=1e-6)
