"""Filters choose rows before the search; an index over clusters finds what an exact one finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.errors import QueryError
from core.records import UNSURE, Caption
from core.search.index import Index
from core.search.query_language.filters import allowed_rows, find_filters, with_filters
from core.search.query_language.parse import parse_query
from tests.core.planted import image_ids, records, unit_rows


class Pictures:
    def __init__(self) -> None:
        plain = records(5)
        self.records = (
            replace(plain[0], width=640, height=480, caption="a Red bus, parked", license="CC BY"),
            replace(plain[1], width=480, height=640, caption="a bus is red", license=None),
            replace(plain[2], width=600, height=600, caption="redbus", caption_flags=(UNSURE,)),
            replace(plain[3], width=610, height=600, more_captions=(Caption("the red bus"),)),
            replace(plain[4], width=3000, height=1000, caption="", license="CC BY-SA"),
        )

    def column(self, name, make):
        return make()


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ("shape:landscape", [0, 4]),
        ("shape:portrait", [1]),
        ("shape:square", [2, 3]),
        ("-shape:square", [0, 1, 4]),
        ("megapixels:1", [4]),
        ('caption:"red bus"', [0, 3]),
        ("caption:BUS -caption:red", []),
        ('license:"cc by"', [0]),
        ("licence:none", [1, 2]),
        ("sure:no", [2]),
        ("sure:yes shape:square", [3]),
    ],
)
def test_a_filter_allows_the_pictures_that_meet_it(filters, rows):
    pictures = Pictures()
    pictures.records = (*pictures.records[:2], replace(pictures.records[2], license=None),
                        *pictures.records[3:])  # fmt: skip
    query = parse_query(f"a dog {filters}")
    assert query.parts[0].text == "a dog"
    assert np.flatnonzero(allowed_rows(pictures, query.filters)).tolist() == rows


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("dog shape:round", "landscape, portrait, square; got 'round'"),
        ("dog megapixels:many", "above 0"),
        ("dog sure:maybe", "yes or no"),
    ],
)
def test_a_filter_that_makes_no_sense_is_told(query, sentence):
    with pytest.raises(QueryError, match=sentence):
        parse_query(query)


def test_filters_alone_are_no_part_to_rank_by():
    query = parse_query('shape:square -caption:"red bus"')
    assert query.parts == () and not query.is_plain
    assert [each.label for each in query.filters] == ["square", "not “red bus” in the caption"]


def test_what_is_no_filter_stays_words_and_is_refused_as_one():
    assert find_filters("a sign: caption: at 10:30 colour:red http://x shape:") == ()
    assert with_filters("dog", "") == "dog"
    with pytest.raises(QueryError, match="'cat' is no filter"):
        with_filters("dog", "shape:square cat")


@pytest.fixture(scope="module")
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """20,000 embeddings around 150 centres, as those of things are, and queries near some."""
    dice = np.random.default_rng(2)
    centres = unit_rows(150, 32, seed=5)[dice.integers(150, size=20_000)]
    vectors = _unit(centres + unit_rows(20_000, 32, seed=1))
    queries = _unit(vectors[dice.choice(20_000, 50)] + 0.5 * unit_rows(50, 32, seed=3))
    return vectors, queries


@pytest.mark.parametrize("share", [0.5, 0.25, 0.02])
def test_a_filtered_ivf_search_finds_what_a_filtered_exact_one_finds(clustered, share):
    """Pictures that pass a filter lie in all clusters, as those of one shape do."""
    vectors, queries = clustered
    ids = image_ids(len(vectors))
    allowed = np.random.default_rng(4).random(len(vectors)) < share
    flat, ivf = (Index.build(vectors, ids, kind) for kind in ("flat", "ivf"))
    exact = flat.search(queries, 10, among=allowed)
    found = ivf.search(queries, 10, among=allowed)
    kept = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(exact, found, strict=True)]
    permitted = {ids[row] for row in np.flatnonzero(allowed)}
    assert all(hit.id in permitted for hits in found for hit in hits)
    assert sum(kept) / 500 >= 0.95


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
