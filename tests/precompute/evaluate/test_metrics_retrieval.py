"""The metric library against a second computation in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from precompute.evaluate.metrics import retrieval_metrics
from precompute.evaluate.metrics.caption_metrics import bleu4, cider, clip_score
from precompute.evaluate.metrics.retrieval_metrics import RETRIEVAL_METRICS, retrieval


def by_hand(first: np.ndarray, relevant: list[dict[int, int]]) -> dict[str, np.ndarray]:
    """Every metric from its definition, one query at a time."""
    rows = {name: [] for name in RETRIEVAL_METRICS}
    for pictures, images in zip(first, relevant, strict=True):
        grades = np.array([images.get(int(picture), 0) for picture in pictures])
        ranks = np.flatnonzero(grades) + 1
        for k in (1, 5, 10):
            rows[f"R@{k}"].append(float((grades[:k] > 0).any()))
        rows["MRR"].append(1 / ranks[0] if ranks.size else 0.0)
        precisions = [(i + 1) / rank for i, rank in enumerate(ranks)]
        rows["mAP"].append(sum(precisions) / len(images))
        discounts = 1 / np.log2(np.arange(2, 12))
        ideal = np.sort(np.array(list(images.values())))[::-1][:10]
        gained = (grades[:10] * discounts[: len(grades[:10])]).sum()
        rows["nDCG@10"].append(gained / (ideal * discounts[: len(ideal)]).sum())
    return {name: np.array(values) for name, values in rows.items()}


def placed(first: np.ndarray, relevant: list[dict[int, int]]) -> list[tuple[tuple[int, int], ...]]:
    """Where the relevant pictures stand in each list, 0 for those it lacks."""
    found = []
    for pictures, images in zip(first.tolist(), relevant, strict=True):
        ranks = {picture: rank for rank, picture in enumerate(pictures, start=1)}
        found.append(tuple((ranks.get(image, 0), grade) for image, grade in images.items()))
    return found


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("depth", [7, 40])
@pytest.mark.parametrize("batch", [retrieval_metrics.BATCH_PICTURES, 1, 300])
def test_the_library_agrees_with_the_definitions(monkeypatch, several, depth, batch):
    monkeypatch.setattr(retrieval_metrics, "BATCH_PICTURES", batch)
    generator = np.random.default_rng(3)
    first = np.stack([generator.permutation(60)[:depth] for _ in range(200)])
    relevant = [
        {int(image): int(generator.integers(1, 4)) for image in generator.permutation(60)[:count]}
        for count in (generator.integers(1, 9, size=200) if several else [1] * 200)
    ]
    found, expected = retrieval(placed(first, relevant)), by_hand(first, relevant)
    for name in RETRIEVAL_METRICS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-9, err_msg=name)


def test_with_one_relevant_picture_map_is_mrr_and_places_give_known_values():
    first = np.array([[4, 2, 9], [2, 4, 9], [9, 2, 4], [9, 2, 7]])
    found = retrieval(placed(first, [{4: 1}] * 4))
    np.testing.assert_allclose(found["MRR"], [1, 1 / 2, 1 / 3, 0])
    np.testing.assert_array_equal(found["mAP"], found["MRR"])
    np.testing.assert_array_equal(found["R@1"], [1, 0, 0, 0])
    np.testing.assert_array_equal(found["R@5"], [1, 1, 1, 0])
    np.testing.assert_allclose(found["nDCG@10"], [1, 1 / np.log2(3), 1 / 2, 0])


def test_cider_prefers_the_caption_that_says_what_the_references_say():
    references = [
        ["a dog runs on the beach", "a brown dog running along the sand"],
        ["two children eat ice cream", "kids with ice cream cones"],
        ["a red bus in the city", "a double decker bus drives by"],
    ]
    good = ["a brown dog runs on the beach", "two kids eat ice cream", "a red bus drives by"]
    swapped = [good[1], good[2], good[0]]
    assert cider([each[0] for each in references], references) > cider(good, references) > 1
    assert cider(swapped, references) < 0.2


def test_clip_score_is_two_and_a_half_times_the_positive_cosine():
    image = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    caption = np.array([[0.6, 0.8], [-1.0, 0.0], [0.0, 1.0]])
    assert clip_score(image, caption) == pytest.approx(2.5 * (0.6 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("captions", "references"), [(["a dog"], [["\N{DOG}!"]]), (["!", "a"], [["!"], ["..."]])]
)
def test_references_without_words_are_worth_nothing(captions, references):
    pytest.importorskip("pycocoevalcap")
    pytest.importorskip("sacrebleu")
    assert (cider(captions, references), bleu4(captions, references)) == (0.0, 0.0)
