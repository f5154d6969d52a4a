"""Fusion against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from core.records import PLAIN_RRF, Fusion, Hit
from core.search.bm25.picture_text import TextHit
from core.search.fusion import Spread, fuse, normalised


def ranking(*scored):
    return [Hit(id=id_, score=score, rank=r) for r, (id_, score) in enumerate(scored, start=1)]


CAPTIONS = ranking(("a", 0.9), ("b", 0.5), ("c", 0.1))
CLIP = ranking(("b", 0.30), ("d", 0.28), ("a", 0.20))
TEXT = ranking(("e", 9.0), ("c", 4.0))


def test_rrf_sums_reciprocal_ranks():
    fused = fuse(PLAIN_RRF, {"captions": CAPTIONS, "clip": CLIP})
    assert [(hit.id, hit.rank) for hit in fused] == [("b", 1), ("a", 2), ("d", 3), ("c", 4)]
    assert [hit.score for hit in fused] == pytest.approx(
        [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63]
    )
    assert fused[0].sources == {"captions": CAPTIONS[1], "clip": CLIP[0]}
    assert fused[2].sources == {"clip": CLIP[1]}


def test_rrf_with_a_small_k_favours_first_ranks():
    both_third = {
        "captions": ranking(("a", 3), ("b", 2), ("c", 1)),
        "clip": ranking(("d", 3), ("e", 2), ("c", 1)),
    }
    assert fuse(Fusion("rrf", k=60), both_third)[0].id == "c"
    assert [hit.id for hit in fuse(Fusion("rrf", k=0), both_third)] == ["a", "d", "c", "b", "e"]


def test_ties_go_to_the_better_rank_then_to_the_id():
    fused = fuse(
        PLAIN_RRF, {"captions": ranking(("z", 1), ("m", 0)), "clip": ranking(("b", 1), ("a", 0))}
    )
    assert [hit.id for hit in fused] == ["b", "z", "a", "m"]
    mirrored = fuse(
        PLAIN_RRF, {"captions": ranking(("z", 1), ("b", 0)), "clip": ranking(("b", 1), ("z", 0))}
    )
    assert [hit.id for hit in mirrored] == ["b", "z"]
    assert mirrored[0].score == mirrored[1].score


def test_fusions_of_nothing_are_empty():
    for fusion in (PLAIN_RRF, Fusion("cosine"), Fusion("zscore")):
        assert fuse(fusion, {}) == []
        assert [hit.id for hit in fuse(fusion, {"captions": CAPTIONS})] == ["a", "b", "c"]
    assert fuse(PLAIN_RRF, {"captions": [], "clip": []}) == []


SCORES = {
    "captions": {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.0},
    "clip": {"a": 0.20, "b": 0.30, "c": 0.10, "d": 0.28},
}


def test_a_sum_counts_what_a_lens_says_of_pictures_beyond_its_ranking():
    both = {"captions": CAPTIONS, "clip": CLIP}
    fused = fuse(Fusion("cosine", 0.25), both, SCORES)
    expected = {i: 0.25 * SCORES["captions"][i] + 0.75 * SCORES["clip"][i] for i in "abcd"}
    assert {hit.id: hit.score for hit in fused} == pytest.approx(expected)
    assert [hit.id for hit in fused] == sorted("abcd", key=lambda i: -expected[i])
    assert fused[0].sources == {"captions": CAPTIONS[0], "clip": CLIP[2]}


def test_a_z_score_sum_counts_deviations_from_the_mean_over_all_pictures():
    both = {"captions": CAPTIONS, "clip": CLIP}
    spreads = {"captions": Spread(0.1, 0.2), "clip": Spread(0.2, 0.05)}
    fused = fuse(Fusion("zscore", 0.4), both, SCORES, spreads)
    # a: 0.4 * 4 + 0.6 * 0, b: 0.4 * 2 + 0.6 * 2, c: 0.4 * 0 - 0.6 * 2, d: -0.4 * 0.5 + 0.6 * 1.6
    assert [(hit.id, round(hit.score, 9)) for hit in fused] == [
        ("b", 2.0),
        ("a", 1.6),
        ("d", 0.76),
        ("c", -1.2),
    ]
    # Equal scores have no deviation, and say nothing.
    flat = {**spreads, "captions": Spread(0.5, 0.0)}
    same = {**SCORES, "captions": dict.fromkeys("abcd", 0.5)}
    assert [hit.id for hit in fuse(Fusion("zscore", 0.4), both, same, flat)] == ["b", "d", "a", "c"]


def test_a_corrected_sum_takes_off_what_hubs_owe_in_clips_own_scale():
    both = {"captions": CAPTIONS, "clip": CLIP}
    spreads = {"captions": Spread(0.1, 0.2), "clip": Spread(0.2, 0.05)}
    owed = {"a": 0.0, "b": 0.1, "c": 0.0, "d": 0.05}
    fused = fuse(Fusion("corrected", 0.4), both, SCORES, spreads, owed=owed)
    # as z-scores, and b: - 0.6 * 0.1 / 0.05, d: - 0.6 * 0.05 / 0.05
    assert [(hit.id, round(hit.score, 9)) for hit in fused] == [
        ("a", 1.6),
        ("b", 0.8),
        ("d", 0.16),
        ("c", -1.2),
    ]
    assert fused[1].sources["clip"].score == 0.30  # what a lens says stays what it is
    rows, taken = np.array([[0.2, 0.3, 0.1], [0.4, 0.4, 0.4]]), np.array([0.0, 0.1, 0.0])
    expected = (rows[0] - taken - 0.2) / rows[0].std()
    assert normalised(rows, "corrected", taken)[0] == pytest.approx(expected)
    assert normalised(rows, "corrected", taken)[1] == pytest.approx(-taken)
    assert normalised(rows, "zscore", taken)[0] == pytest.approx((rows[0] - 0.2) / rows[0].std())


def test_the_text_in_pictures_is_joined_even_where_no_lens_ranked_them():
    both = {"captions": CAPTIONS, "clip": CLIP}
    text = [TextHit(hit, ("stop",), share) for hit, share in zip(TEXT, (1.0, 0.5), strict=True)]
    by_rank = {hit.id: hit for hit in fuse(PLAIN_RRF, both, text=text)}
    assert by_rank["e"].score == pytest.approx(1 / 61)
    assert by_rank["c"].score == pytest.approx(1 / 63 + 1 / 62)
    assert (by_rank["e"].sources, by_rank["b"].sources.get("text")) == ({"text": TEXT[0]}, None)
    spreads = {"captions": Spread(0.1, 0.2), "clip": Spread(0.2, 0.05)}
    scores = {lens: {**SCORES[lens], "e": spreads[lens].mean} for lens in SCORES}
    found = fuse(Fusion("zscore", 0.4), both, scores, spreads, text)
    # As above, and 4 for all of the words, 2 for half of them.
    assert [(hit.id, round(hit.score, 9)) for hit in found] == [
        ("e", 4.0),
        ("b", 2.0),
        ("a", 1.6),
        ("c", 0.8),
        ("d", 0.76),
    ]
    with pytest.raises(ValueError, match="cannot be computed"):
        fuse(Fusion("cosine"), both, scores, text=text)


def test_what_a_sum_needs_and_lacks_is_said():
    both = {"captions": CAPTIONS, "clip": CLIP}
    with pytest.raises(ValueError, match="z-score sum, caption weight 0.5 cannot be computed"):
        fuse(Fusion("zscore"), both, SCORES)
    spreads = {"captions": Spread(0.1, 0.2), "clip": Spread(0.2, 0.05)}
    with pytest.raises(ValueError, match="corrected z-score sum, caption weight 0.5 cannot be"):
        fuse(Fusion("corrected"), both, SCORES, spreads)
    with pytest.raises(ValueError, match="cannot be computed"):
        fuse(Fusion("cosine"), both)


@pytest.mark.parametrize(("kind", "expected"), [("minmax", [0, 0.5, 1]), ("cosine", [1, 2, 3])])
def test_normalised_scores_by_hand(kind, expected):
    rows = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    assert normalised(rows.copy(), kind)[0].tolist() == expected
    assert normalised(rows.copy(), "zscore")[0] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
