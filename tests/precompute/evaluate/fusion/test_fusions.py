"""Fusion over whole blocks equals fusion hit by hit, and the better setting is found."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from core.gallery.figures.metrics_file import LensFigures, PairedTest
from core.records import Fusion, Hit
from core.search.fusion import Spread, fuse, normalised
from precompute.evaluate import rankings
from precompute.evaluate.fusion import fusions
from precompute.evaluate.fusion.fusion_choice import TunedFusions
from precompute.evaluate.fusion.fusions import (
    BothLenses,
    Tuned,
    candidates,
    reciprocal_ranks,
    tune,
)
from precompute.evaluate.rankings import Relevant, dense_scorer, order, ranks_of
from tests.core.planted import unit_rows


def hits(scores: np.ndarray, depth: int) -> list[Hit]:
    return [
        Hit(str(image), float(scores[image]), rank)
        for rank, image in enumerate(order(scores[None], depth)[0].tolist(), start=1)
    ]


@pytest.mark.parametrize(
    "fusion",
    [
        *(Fusion("rrf", k=60), Fusion("rrf", 0.3, 3), Fusion("cosine", 0.3)),
        *(Fusion("zscore", 0.8), Fusion("corrected", 0.2)),
    ],
    ids=str,
)
def test_a_block_is_fused_as_the_page_fuses_one_query(fusion):
    generator = np.random.default_rng(0)
    both = {"captions": generator.random((20, 30)), "clip": generator.random((20, 30)) / 3}
    owed = generator.random(30) / 10
    rows, images = np.divmod(np.arange(600), 30)
    ranks = BothLenses(*both.values(), owed).ranks(fusion, rows, images).reshape(20, 30)
    compared = 0
    for row in range(20):
        own = {lens: scores[row] for lens, scores in both.items()}
        expected = fuse(
            fusion,
            {lens: hits(scores, 30) for lens, scores in own.items()},
            {lens: {str(i): float(s) for i, s in enumerate(own[lens])} for lens in own},
            {lens: Spread(float(own[lens].mean()), float(own[lens].std())) for lens in own},
            owed={str(i): float(taken) for i, taken in enumerate(owed)},
        )
        if len({round(hit.score, 12) for hit in expected}) < 30:
            continue  # one query's ties are broken otherwise
        compared += 1
        found = {str(image): int(rank) for image, rank in enumerate(ranks[row])}
        assert found == {hit.id: hit.rank for hit in expected}
    assert compared >= 5


@pytest.mark.parametrize("fusion", [Fusion("rrf", k=1), Fusion("rrf", 0.3, 60)])
@pytest.mark.parametrize("depth", [3, 12, 30])
def test_rank_fusion_of_the_first_pictures_only_ranks_all(monkeypatch, fusion, depth):
    monkeypatch.setattr(fusions, "DEPTH", depth)
    generator = np.random.default_rng(1)
    # a few values only, so that every row is full of ties
    scores = [generator.integers(0, 9, size=(20, 30)).astype(np.float32) for _ in range(2)]
    both = BothLenses(*scores)
    places = np.full((2, 20, 30), np.inf)
    for lens, own in enumerate(scores):
        for row, pictures in enumerate(order(own, depth)):
            places[lens, row, pictures] = np.arange(1, depth + 1)
    fused = fusion.fuse(*places)
    expected = np.stack([np.lexsort((np.arange(30), -row)) for row in fused])
    rows, images = np.divmod(np.arange(600), 30)
    ranks = both.ranks(fusion, rows, images).reshape(20, 30)
    np.testing.assert_array_equal(np.argsort(ranks, axis=1), expected)
    np.testing.assert_array_equal(np.sort(ranks, axis=1), np.tile(np.arange(1, 31), (20, 1)))
    some = np.array([45, 46, 300, 599])
    found = both.ranks(fusion, rows[some], images[some])
    np.testing.assert_array_equal(found, ranks.ravel()[some])


def test_a_sum_of_some_rows_ranks_them_as_all_do():
    generator = np.random.default_rng(2)
    both = BothLenses(*generator.random((2, 10, 15), dtype=np.float32))
    rows, images = np.arange(10), generator.integers(0, 15, size=10)
    for kind in ("cosine", "minmax", "zscore"):
        whole = both.ranks(Fusion(kind, 0.4), rows, images)
        some = both.ranks(Fusion(kind, 0.4), rows[[1, 4, 9]], images[[1, 4, 9]])
        np.testing.assert_array_equal(some, whole[[1, 4, 9]])


def test_scores_that_are_all_equal_are_no_reason_for_nan():
    flat = np.ones((2, 5), dtype=np.float32)
    assert normalised(flat, "minmax").tolist() == flat.tolist()
    assert normalised(flat, "zscore").tolist() == np.zeros((2, 5)).tolist()


@pytest.mark.parametrize(
    ("ahead", "p_value", "beats", "said"),
    [
        (0.02, 0.001, True, "beats both lenses in R@1, R@5, R@10 and MRR; the largest p-value"),
        (0.02, 0.3, False, "may be luck against the CLIP lens in R@5 (p up to 0.3000)"),
        (-0.02, 0.001, False, "does not beat the CLIP lens in R@1, R@5, R@10, MRR."),
    ],
)
def test_the_verdict_on_fusion_tells_luck_from_better(ahead, p_value, beats, said):
    def figures(value: float) -> LensFigures:
        names = ("R@1", "R@5", "R@10", "MRR", "nDCG@10")
        rest = {"median_rank": 1.0, "ci95": {}, "images": 9, "queries": 9}
        return LensFigures(**dict.fromkeys(names, value), **rest)

    own = {"captions": figures(0.4), "clip": figures(0.6), "fused": figures(0.6 + ahead)}
    tests = [
        PairedTest(
            first="fused",
            second=lens,
            metric=metric,
            difference=own["fused"].mrr - own[lens].mrr,
            p_value=p_value if (lens, metric) == ("clip", "R@5") else 0.0001,
        )
        for lens in ("captions", "clip")
        for metric in ("R@1", "R@5", "R@10", "MRR")
    ]
    tuned = Tuned(Fusion("rrf"), Fusion("cosine"), {Fusion("rrf"): 0.5, Fusion("cosine"): 0.6})
    found = TunedFusions((tuned,), np.zeros(9, dtype=int), tuned, "all").describe(own, tests)
    assert found.beats_both == beats
    assert said in found.verdict


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
    everything = slice(0, 300)
    pairs = relevant.inside(everything)
    alone = [(1 / ranks_of(lens(everything), *pairs)).mean() for lens in (captions, clip)]
    assert alone[0] < alone[1] < tuned.mrr[tuned.best]
    assert tuned.weighted_sum.weight < 0.5
    assert tuned.mrr[tuned.rrf] >= tuned.mrr[Fusion("rrf", k=60)]
    both = BothLenses(captions(everything), clip(everything))
    again = (1 / both.ranks(tuned.best, *pairs)).mean()
    assert again == pytest.approx(tuned.mrr[tuned.best])


def test_memory_does_not_grow_with_the_number_of_queries(monkeypatch):
    monkeypatch.setattr(rankings, "BLOCK_BYTES", 500_000)
    monkeypatch.setattr(rankings, "PART_BYTES", 100_000)
    queries, images = 1000, 5000
    lenses = [dense_scorer(unit_rows(queries, 4, seed), unit_rows(images, 4)) for seed in (1, 2)]
    relevant = Relevant.of([{row: 1} for row in range(queries)])
    tried = (Fusion("rrf"), Fusion("cosine"), Fusion("zscore"))
    tracemalloc.start()
    found = reciprocal_ranks(tried, *lenses, relevant, images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (3, queries)
    assert peak < 4 * queries * images / 2  # half of one lens's scores


def test_corrected_sums_are_tried_where_hubs_are_known_only():
    kinds = {fusion.kind for fusion in candidates(corrected=False)}
    assert kinds == {"rrf", "cosine", "minmax", "zscore"}
    assert {fusion.kind for fusion in candidates()} - kinds == {"corrected"}


def test_words_for_a_fusion_name_its_setting():
    assert str(Fusion("rrf", k=60)) == "reciprocal rank fusion, k = 60"
    assert str(Fusion("zscore", 0.35)) == "z-score sum, caption weight 0.35"
    assert str(Fusion("corrected", 0.15)) == "corrected z-score sum, caption weight 0.15"
