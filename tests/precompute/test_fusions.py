"""Fusion over whole blocks equals fusion hit by hit, and the better setting is found."""

from __future__ import annotations

import numpy as np
import pytest

from core.fusion import rrf, weighted_sum
from core.records import Hit
from precompute.fusions import (
    Fusion,
    candidates,
    prepare,
    reciprocal_ranks,
    tune,
)
from precompute.rankings import Relevant, dense_scorer, order
from tests.core.planted import unit_rows


def hits(scores: np.ndarray) -> list[Hit]:
    return [
        Hit(str(image), float(scores[image]), rank)
        for rank, image in enumerate(order(scores[None], len(scores))[0].tolist(), start=1)
    ]


@pytest.mark.parametrize(
    ("fusion", "reference"),
    [
        (Fusion("rrf", k=60), lambda both: rrf(both, k=60)),
        (Fusion("rrf", k=3), lambda both: rrf(both, k=3)),
        (
            Fusion("minmax", 0.3),
            lambda both: weighted_sum(both, {"captions": 0.3, "clip": 0.7}, "minmax"),
        ),
        (
            Fusion("zscore", 0.8),
            lambda both: weighted_sum(both, {"captions": 0.8, "clip": 0.2}, "zscore"),
        ),
    ],
)
def test_a_block_is_fused_as_core_fusion_fuses_one_query(fusion, reference):
    generator = np.random.default_rng(0)
    captions, clip = generator.random((20, 30)), generator.random((20, 30)) / 3
    fused = fusion.fuse(prepare(captions, fusion.kind), prepare(clip, fusion.kind))
    for row in range(20):
        expected = reference({"captions": hits(captions[row]), "clip": hits(clip[row])})
        scale = 2 if fusion.kind == "rrf" else 1  # halves there, sums here: the order is the same
        by_id = {hit.id: hit.score for hit in expected}
        np.testing.assert_allclose(
            scale * fused[row], [by_id[str(image)] for image in range(30)], atol=1e-12
        )
        distinct = len({round(score, 12) for score in by_id.values()}) == 30
        if distinct:
            assert order(fused[row : row + 1], 30)[0].astype(str).tolist() == [
                hit.id for hit in expected
            ]


def test_scores_that_are_all_equal_are_no_reason_for_nan():
    flat = np.ones((2, 5), dtype=np.float32)
    assert prepare(flat, "minmax").tolist() == flat.tolist()
    assert prepare(flat, "zscore").tolist() == np.zeros((2, 5)).tolist()


def planted_lenses(noise_of_captions: float, noise_of_clip: float):
    """60 pictures; each lens sees the truth through noise of its own."""
    truth, generator = unit_rows(60, 24), np.random.default_rng(8)
    queries = np.repeat(truth, 5, axis=0)

    def seen(rows: np.ndarray, noise: float) -> np.ndarray:
        noisy = rows + noise * generator.normal(size=rows.shape) / np.sqrt(24)
        return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)

    relevant = Relevant.of([{row // 5: 1} for row in range(300)])
    captions = dense_scorer(seen(queries, noise_of_captions), seen(truth, noise_of_captions))
    clip = dense_scorer(seen(queries, noise_of_clip), seen(truth, noise_of_clip))
    return captions, clip, relevant


def test_tuning_leans_to_the_better_lens_and_beats_both():
    captions, clip, relevant = planted_lenses(1.6, 1.1)
    tried = candidates()
    found = reciprocal_ranks(tried, captions, clip, relevant, 60)
    tuned = tune(tried, found)
    alone = [
        (1 / relevant.best_rank(lens(slice(0, 300)), slice(0, 300))).mean()
        for lens in (captions, clip)
    ]
    assert alone[0] < alone[1] < tuned.mrr[tuned.best]
    assert tuned.weighted_sum.weight < 0.5
    assert tuned.mrr[tuned.rrf] >= tuned.mrr[Fusion("rrf", k=60)]
    seen = [prepare(lens(slice(0, 300)), tuned.best.kind) for lens in (captions, clip)]
    again = (1 / relevant.best_rank(tuned.best.fuse(*seen), slice(0, 300))).mean()
    assert again == pytest.approx(tuned.mrr[tuned.best])


def test_words_for_a_fusion_name_its_setting():
    assert str(Fusion("rrf", k=60)) == "reciprocal rank fusion, k = 60"
    assert str(Fusion("zscore", 0.35)) == "z-score sum, caption weight 0.35"
