"""Queries written for known pictures: what the files say, and how their answers are counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from core.errors import SourceError
from core.gallery.figures.written_kinds import KindName
from core.gallery.reader import Gallery
from core.models.profiles import Models
from core.records import SAMPLE_NAME
from precompute.build.sample_gallery import packaged_photos
from precompute.evaluate import written_queries as room
from precompute.evaluate.qrels import read_trec
from precompute.evaluate.written_queries.kind_figures import kind_figures
from precompute.evaluate.written_queries.written import (
    WrittenQuery,
    written_queries,
    written_sha256,
)
from tests.core.planted import PlantedEncoder, gallery_on_disk, profile, records

PICTURES = 8
FOLDER = Path(room.__file__).parent
QUERIES = """\
rare-01\ta yurt
rare-02\tan ibis
rare-03\ta nene
count-01\tone bird
count-02\ttwo birds
roles-01\ta hat on a ball
roles-01-swapped\ta ball on a hat
roles-02\ta man above a river
roles-02-swapped\ta river above a man
"""


@pytest.fixture
def listed(tmp_path):
    """Five queries of three kinds for pictures 0 to 7, and one of a picture that is not there."""
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "photos.tsv").write_text(QUERIES)
    ids = [record.id for record in records(PICTURES)]
    lines = [("rare-01", 0, 1), ("rare-02", 5, 1), ("rare-02", 6, 1), ("rare-03", None, 1)]
    lines += [("count-01", 1, 1), ("count-01", 2, 0), ("count-02", 2, 1), ("count-02", 1, 0)]
    lines += [("roles-01", 3, 1), ("roles-01-swapped", 3, 0)]
    lines += [("roles-02", 4, 1), ("roles-02-swapped", 4, 0)]
    (folder / "photos.qrels").write_text(
        "".join(f"{q} 0 {'absent.jpg' if row is None else ids[row]} {g}\n" for q, row, g in lines)
    )
    return folder


def planted(tmp_path, folder, scores: dict[str, dict[str, list[float]]]) -> tuple[Gallery, Models]:
    """A gallery whose pictures are basis vectors, so that a query's embedding is its scores."""
    models = profile(tmp_path / "models", PICTURES, PICTURES)
    basis = np.eye(PICTURES, dtype=np.float32)
    gallery_on_disk(tmp_path / "gallery", models, basis, basis)
    encoders = {
        lens: PlantedEncoder(
            getattr(models, "sentence" if lens == "captions" else "clip"),
            {text: np.array(own, np.float32) for text, own in scores[lens].items()},
        )
        for lens in ("captions", "clip")
    }
    return Gallery.open(tmp_path / "gallery", models), Models(
        models, sentence=encoders["captions"], clip=encoders["clip"]
    )


def falling(*first: int) -> list[float]:
    """Scores that put these pictures first, the others behind them in the order of the gallery."""
    order = [*first, *(row for row in range(PICTURES) if row not in first)]
    return [1 - order.index(row) / 10 for row in range(PICTURES)]


def test_each_kind_is_counted_by_its_own_test(tmp_path, listed):
    captions = {
        "a yurt": falling(0),  # right: first
        "an ibis": falling(0, 1, 2, 3, 6),  # right: one of two is the fifth
        "one bird": falling(1, 2),  # right: 1 before 2
        "two birds": falling(1, 2),  # wrong: 1 before 2 again
        "a hat on a ball": [0, 0, 0, 0.6, 0, 0, 0, 0],
        "a ball on a hat": [0, 0, 0, 0.5, 0, 0, 0, 0],  # right: the true one is higher
        "a man above a river": [0, 0, 0, 0, 0.5, 0, 0, 0],
        "a river above a man": [0, 0, 0, 0, 0.5, 0, 0, 0],  # wrong: as high
    }
    clip = {
        **captions,
        "a yurt": falling(7, 6, 5, 4, 3),  # wrong: sixth
        "two birds": falling(2, 1),
        "a man above a river": [0, 0, 0, 0, 0.51, 0, 0, 0],
    }
    gallery, models = planted(tmp_path, listed, {"captions": captions, "clip": clip})
    found = {each.kind: each for each in kind_figures(gallery, models, listed)}
    assert {kind: (each.test, each.queries, each.right) for kind, each in found.items()} == {
        "rare": ("first_five", 2, {"captions": 2, "clip": 1}),
        "count": ("two_pictures", 2, {"captions": 1, "clip": 2}),
        "roles": ("two_texts", 2, {"captions": 1, "clip": 2}),
    }
    two_of_eight = 1 - comb(6, 5) / comb(8, 5)
    assert found["rare"].chance == pytest.approx(5 / 8 + two_of_eight, abs=0.006)
    assert found["count"].chance == found["roles"].chance == 1


def test_chance_is_what_a_random_order_gets():
    """Counted over many orders of 20 pictures, of which three are right."""
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(20), (20_000, 1)), axis=1)
    counted = (draws[:, :5] < 3).any(axis=1).mean()
    assert WrittenQuery("rare-01", "a yurt", (0, 1, 2)).chance(20) == pytest.approx(
        counted, abs=0.01
    )
    assert WrittenQuery("rare-01", "a yurt", (0,)).chance(3) == 1
    assert WrittenQuery("count-01", "one bird", (0,), wrong=1).chance(3) == 0.5


def test_a_query_needs_its_pictures(listed):
    """A gallery with few of the pictures is asked only what it can answer."""
    assert [query.id for query in written_queries("photos", records(2), listed)] == ["rare-01"]
    assert [query.id for query in written_queries("photos", records(4), listed)] == [
        "rare-01",
        "count-01",
        "count-02",
        "roles-01",
    ]


@pytest.mark.parametrize("source", ["other", "../photos", "", "*"])
def test_nothing_is_written_for_other_sources(listed, source):
    assert written_queries(source, records(PICTURES), listed) == ()
    assert written_sha256(source) == ""


def test_a_damaged_file_is_one_sentence(listed):
    (listed / "photos.tsv").write_text("rare-01 a yurt\n")
    with pytest.raises(SourceError, match=r"Line 1 of photos\.tsv is not QUERY"):
        written_queries("photos", records(PICTURES), listed)


@pytest.fixture(scope="module")
def of_sample() -> dict[str, list[WrittenQuery]]:
    """What is written for the photos of the default gallery, by kind."""
    photos = packaged_photos()
    named = [
        replace(record, file_name=photo.file_name)
        for record, photo in zip(records(len(photos)), photos, strict=True)
    ]
    by_kind = defaultdict(list)
    for query in written_queries(SAMPLE_NAME, named):
        by_kind[query.kind].append(query)
    return by_kind


def test_of_another_gallery_what_can_be_read_in_its_photos_is_asked():
    _, judgements = read_trec(FOLDER / "coco_cc.qrels", FOLDER / "coco_cc.tsv")
    names = sorted({each.picture for each in judgements})
    named = [
        replace(record, file_name=name)
        for record, name in zip(records(len(names)), names, strict=True)
    ]
    queries = written_queries("coco_cc", named)
    assert len(queries) == 40
    assert {(query.kind, query.test) for query in queries} == {("text", "first_five")}
    assert sum(len(query.right) for query in queries) == len(judgements)


def test_every_photo_was_looked_at():
    """Pictures that answer a query and are not judged would count as wrong: judge new ones."""
    assert len(packaged_photos()) == 76


def test_every_kind_has_ten_queries_or_more_and_one_test(of_sample):
    assert sorted(of_sample) == sorted(get_args(KindName))
    for kind, queries in of_sample.items():
        assert len(queries) >= 10, kind
        assert len({query.text for query in queries}) == len(queries), kind
        assert len({query.test for query in queries}) == 1, kind
        if queries[0].test != "first_five":
            assert {len(query.right) for query in queries} == {1}, kind
    tests = {kind: queries[0].test for kind, queries in of_sample.items()}
    assert [kind for kind, test in tests.items() if test == "two_pictures"] == ["negation", "count"]
    assert [kind for kind, test in tests.items() if test == "two_texts"] == ["roles", "colour"]


def test_a_lens_that_reads_no_number_is_right_half_the_time(of_sample):
    """Each pair of pictures is asked both ways, so that liking one of them gains nothing."""
    asked = Counter((query.right[0], query.wrong) for query in of_sample["count"])
    assert asked == Counter({(wrong, right): n for (right, wrong), n in asked.items()})


def test_texts_are_swapped_and_not_rewritten(of_sample):
    for query in [*of_sample["roles"], *of_sample["colour"]]:
        ours, theirs = (
            Counter(word.rstrip("s") for word in text.lower().split())
            for text in (query.text, query.swapped)
        )
        assert ours == theirs and query.text != query.swapped, query.text
