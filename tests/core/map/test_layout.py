"""Layouts of planted embeddings: neighbours stay neighbours, both maps alike, always the same."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from core.map import layout
from core.map.layout import agreement, aligned, components, lay_out, trustworthiness
from core.map.query_point import NEAREST, place_among
from tests.core.planted import unit_rows


def clusters(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Rows around three far directions, row i in cluster i % 3."""
    centres = unit_rows(3, dim, seed)
    rows = centres[np.arange(count) % 3] + 0.2 * unit_rows(count, dim, seed + 1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def turned(rows: np.ndarray) -> np.ndarray:
    """The same embedding seen from elsewhere: every cosine stays."""
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(rows.shape[1],) * 2))
    return (rows @ rotation).astype(np.float32)


def nearest(places: np.ndarray) -> np.ndarray:
    away = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(away, np.inf)
    return away.argmin(axis=1)


def test_a_map_is_the_same_bytes_again_and_alike_for_lenses_that_agree():
    rows = clusters(60, 24)
    embeddings = {"captions": rows, "clip": turned(rows)}
    first, second = lay_out(embeddings), lay_out(embeddings)
    for lens in ("captions", "clip"):
        places = first.coordinates[lens]
        assert places.dtype == np.float32 and places.shape == (60, 2)
        assert places.tobytes() == second.coordinates[lens].tobytes()
        assert (nearest(places) % 3 == np.arange(60) % 3).all()
        assert trustworthiness(rows, places) > 0.9
        assert np.sqrt((places**2).sum(axis=1).mean()) == pytest.approx(1)
    assert agreement(first.coordinates["captions"], first.coordinates["clip"]) > 0.98
    assert "t-SNE" in first.method


def test_a_map_is_made_by_one_thread_a_lens_whatever_the_machine_has(monkeypatch):
    """More would add numbers in another order, and so give other bytes."""
    seen = []

    class Watched:
        def __init__(self, **options):
            pass

        def fit_transform(self, rows):
            seen.extend(library["num_threads"] for library in threadpool_info())
            return rows[:, :2]

    monkeypatch.setattr("sklearn.manifold.TSNE", Watched)
    with threadpool_limits(2):
        lay_out({"captions": unit_rows(20, 8), "clip": unit_rows(20, 8)})
    assert seen and set(seen) == {1}


def test_components_are_found_without_a_copy_of_all_rows():
    rows = clusters(20_000, 64)
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    tracemalloc.start()
    found = components(rows, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.allclose(np.abs(found), np.abs(centred @ directions[:3].T), atol=1e-6)
    assert peak < centred.nbytes / 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_pictures_are_laid_out_by_their_first_components(count):
    found = lay_out({"captions": unit_rows(count, 8), "clip": unit_rows(count, 3, 1)})
    assert all(np.isfinite(rows).all() for rows in found.coordinates.values())
    assert "t-SNE" not in found.method
    if count == 2:
        assert agreement(found.coordinates["captions"], found.coordinates["clip"]) > 0.99


def test_of_many_pictures_the_others_stand_among_those_that_were_embedded(monkeypatch):
    monkeypatch.setattr(layout, "MOST_EMBEDDED", 40)
    rows = clusters(150, 24)
    places = lay_out({"captions": rows, "clip": rows}).coordinates["captions"]
    assert (nearest(places) % 3 == np.arange(150) % 3).all()
    monkeypatch.setattr(layout, "MOST_PICTURES", 100)
    with pytest.raises(ValueError, match="at most 100 pictures; these are 150"):
        lay_out({"captions": rows, "clip": rows})


def test_a_turned_and_mirrored_map_is_laid_onto_the_other():
    fixed = np.random.default_rng(0).normal(size=(50, 2))
    fixed -= fixed.mean(axis=0)
    moved = fixed @ np.array([[0.6, 0.8], [0.8, -0.6]])
    assert agreement(moved, fixed) < 0.9
    np.testing.assert_allclose(aligned(moved, fixed), fixed, atol=1e-9)


def test_a_query_stands_among_its_nearest_the_better_ones_counting_more():
    places = np.array([[0, 0], [4, 0], [0, 8], [100, 100]], np.float32)
    np.testing.assert_allclose(place_among(places, [1, 2, 0], [0.5, 0.3, 0.2]), [3, 2])
    np.testing.assert_allclose(place_among(places, [1, 2], [0.3, 0.3]), [2, 4])
    np.testing.assert_allclose(place_among(places, [3], [0.9]), [100, 100])
    many = np.zeros((NEAREST + 5, 2), np.float32)
    many[NEAREST + 1 :] = 1000  # further hits do not count
    ranks = list(range(NEAREST + 5))
    assert (place_among(many, ranks, [1 - rank / 100 for rank in ranks]) == 0).all()
