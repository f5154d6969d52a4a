"""Groups of queries and examples, on outcomes that a test has planted."""

from __future__ import annotations

import numpy as np
import pytest

from core.search.query_kinds import kinds_of
from precompute.evaluate.lenses.lens_differences import (
    CONTENT,
    Outcome,
    groups,
    histogram,
    solved_by_one,
)
from precompute.evaluate.qrels import Query
from tests.core.planted import records

TEXTS = (
    "a dog",
    "two red buses",
    "a man running on the beach with a big brown dog",
    "a street without people",
)


def outcome(captions, clip, fused=None, first_captions=None, first_clip=None) -> Outcome:
    count = len(captions)
    shown = np.tile(np.arange(10), (count, 1))
    return Outcome(
        ranks={
            "captions": np.array(captions),
            "clip": np.array(clip),
            "fused": np.array(fused or captions),
        },
        first={
            "captions": shown if first_captions is None else first_captions,
            "clip": shown if first_clip is None else first_clip,
        },
    )


def queries(*texts: str) -> list[Query]:
    return [Query(str(i), text, {i: 1}, i) for i, text in enumerate(texts)]


def test_groups_split_by_length_and_content():
    half = np.tile(np.array([0, 1, 2, 3, 4, 95, 96, 97, 98, 99]), (4, 1))
    found = {
        (group.group, group.name): group
        for group in groups(queries(*TEXTS), outcome([1, 9, 5, 6], [6, 2, 3, 6], first_clip=half))
    }
    assert found["length", "1 to 6 words"].queries == 3
    assert found["length", "10 to 12 words"].queries == 1
    assert ("length", "17 words or more") not in found
    assert found["content", "a count"].queries == 1
    assert found["content", "a colour"].queries == 2
    assert found["content", "an action"].queries == 1
    assert found["content", "a negation"].queries == 1
    assert found["content", "none of these"].queries == 1
    short = found["length", "1 to 6 words"]
    assert short.r_at_5["captions"] == pytest.approx(1 / 3)
    assert short.r_at_5["clip"] == pytest.approx(1 / 3)
    assert short.only_captions == pytest.approx(1 / 3)
    assert short.only_clip == pytest.approx(1 / 3)
    assert short.overlap_at_10 == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Three men in a BLUE boat", {"a count", "a colour"}),
        ("a building during the evening", set()),
        ("someone climbing", {"an action"}),
        ("there isn't any snow", {"a negation"}),
        ("an orange-coloured kite", {"a colour"}),
    ],
)
def test_what_counts_as_content(text, kinds):
    assert {CONTENT[kind] for kind in kinds_of(text) if kind in CONTENT} == kinds


def test_examples_are_the_clearest_wins_one_a_picture():
    pictures = records(20)
    asked = [
        Query("0", "clear", {3: 1}, 3),
        Query("1", "clear too, same picture", {3: 1}, 3),
        Query("2", "narrow", {4: 1}, 4),
        Query("3", "both solve", {5: 1}, 5),
        Query("4", "clip wins", {6: 1}, 6),
        Query("5", "neither", {7: 1}, 7),
    ]
    captions_first = np.zeros((6, 10), dtype=int)
    captions_first[0, 0] = captions_first[1, 0] = 3
    captions_first[2] = [9, 8, 4, 0, 1, 2, 3, 5, 6, 7]
    captions_first[4, 0] = 11
    clip_first = np.full((6, 10), 12)
    clip_first[4, 1] = 6
    found = solved_by_one(
        asked,
        pictures,
        outcome([1, 1, 3, 1, 90, 50], [80, 20, 9, 2, 2, 60], None, captions_first, clip_first),
        lambda query, image: f"{pictures[image].caption} for {query}",
    )
    assert [(each.winner, each.query) for each in found] == [
        ("captions", "clear"),
        ("captions", "narrow"),
        ("clip", "clip wins"),
    ]
    assert found[0].image_id == pictures[3].id
    assert (found[0].captions_rank, found[0].clip_rank) == (1, 80)
    assert found[0].shown_instead == pictures[12].id
    assert found[2].shown_instead == pictures[11].id
    assert found[2].shown_caption == f"{pictures[11].caption} for 4"
    assert found[0].caption == f"{pictures[3].caption} for 0"


def test_a_histogram_of_each_side_sums_to_one_over_shared_bins():
    found = histogram(np.array([0.5, 0.9, 0.9]), np.array([0.1, 0.2, 0.35, 0.55]), bins=4)
    assert found.edges == pytest.approx((0.1, 0.3, 0.5, 0.7, 0.9))
    assert found.right == pytest.approx((0, 0, 1 / 3, 2 / 3))
    assert found.wrong == pytest.approx((0.5, 0.25, 0.25, 0))
    assert sum(histogram(np.ones(3), np.ones(3)).right) == pytest.approx(1)
