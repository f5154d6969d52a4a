"""Several captions an image: planted vectors, whose order and scores numpy works out too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.errors import CorruptGalleryError, EmbeddingError
from core.gallery.caption_rows import NEAR_DUPLICATE, CaptionRows, distinct
from core.gallery.manifest import SourceRef
from core.gallery.reader import Gallery
from core.gallery.writer import write_gallery
from core.models.profiles import Models
from core.records import Caption, ImageRecord, values_of
from core.search.index import Index
from core.search.service import SearchService
from tests.core.planted import (
    CREATED_AT,
    PlantedCopies,
    PlantedEncoder,
    brute_force,
    forge_manifest,
    image_ids,
    profile,
    records,
    unit_rows,
)

DIM = 8


def several(count: int, seed: int = 0) -> list[ImageRecord]:
    """Records of one to five captions, by chance."""
    dice = np.random.default_rng(seed)
    return [
        replace(
            record,
            more_captions=tuple(
                Caption(f"{record.caption}, again {number}", (), number / 10)
                for number in range(int(dice.integers(0, 5)))
            ),
        )
        for record in records(count)
    ]


def best_of(vectors: np.ndarray, rows: CaptionRows, query: np.ndarray, k: int, ids):
    """The ranking by each image's best caption, worked out image by image."""
    scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    best = [scores[a:b].max() for a, b in zip(rows.first[:-1], rows.first[1:], strict=True)]
    order = sorted(range(len(ids)), key=lambda row: (-best[row], row))[:k]
    return [(ids[row], float(best[row])) for row in order]


@pytest.fixture(params=["mean", "best"])
def pooling(request) -> str:
    return request.param


@pytest.fixture
def made(tmp_path, pooling):
    pictures = several(50)
    rows = CaptionRows.of(pictures)
    vectors = unit_rows(len(rows), DIM)
    folder = tmp_path / "gallery"
    folder.mkdir()
    models = profile(tmp_path / "models", caption_dim=DIM)
    write_gallery(
        folder,
        name="several",
        records=pictures,
        caption_embeddings=vectors,
        clip_embeddings=unit_rows(50, 6, seed=1),
        copies=PlantedCopies(pictures),
        profile=models,
        source=SourceRef(kind="folder", id="photos"),
        captions_per_image=5,
        caption_pooling=pooling,
        created_at=CREATED_AT,
    )
    return folder, models, pictures, rows, vectors


def test_rows_stand_in_the_order_of_the_images():
    pictures = several(3)
    rows = CaptionRows.of(pictures)
    counts = [len(record.captions) for record in pictures]
    assert np.diff(rows.first).tolist() == counts
    assert rows.owners.tolist() == [i for i, count in enumerate(counts) for _ in range(count)]
    assert not rows.single
    assert CaptionRows.of(records(4)).single
    assert len(CaptionRows.of([])) == CaptionRows.of([]).images == 0


def test_the_mean_is_of_unit_norm_and_captions_that_cancel_out_leave_the_first():
    rows = CaptionRows(np.array([0, 2, 3, 5]))
    vectors = np.array([[1, 0], [0, 1], [0, -1], [0.6, 0.8], [-0.6, -0.8]], np.float32)
    half = np.sqrt(0.5)
    expected = [[half, half], [0, -1], [0.6, 0.8]]
    assert np.allclose(rows.mean(vectors), expected, atol=1e-7)
    single = CaptionRows(np.arange(6))
    assert single.mean(vectors) is vectors


def test_a_gallery_keeps_every_caption(made):
    folder, models, pictures, rows, vectors = made
    gallery = Gallery.open(folder, models)
    assert tuple(gallery.records) == tuple(pictures)
    assert gallery.records[0].captions[1:] == pictures[0].more_captions
    assert values_of(gallery.records, "more_captions") == [p.more_captions for p in pictures]
    assert np.array_equal(gallery.caption_embeddings, vectors)
    assert gallery.manifest.captions_per_image == 5
    means = gallery.embeddings("captions")
    assert means.shape == (50, DIM)
    assert np.allclose(np.linalg.norm(means, axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        means[0] = 0
    own = vectors[rows.first[7] : rows.first[8]].sum(axis=0)
    found = gallery.embedding("captions", gallery.records[7].id)
    assert np.allclose(found, own / np.linalg.norm(own), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 7, 49, 50, 200])
def test_the_ranking_is_that_of_the_mean_or_of_the_best_caption(made, pooling, k):
    folder, models, _, rows, vectors = made
    gallery = Gallery.open(folder, models)
    ids = image_ids(50)
    queries = unit_rows(20, DIM, seed=3)
    for kind in ("flat", "ivf"):
        index = gallery.index("captions", kind)
        for query, hits in zip(queries, index.search(queries, k, nprobe=99), strict=True):
            if pooling == "mean":
                expected = brute_force(rows.mean(vectors), ids, query, k)
            else:
                expected = best_of(vectors, rows, query, k, ids)
            assert [hit.id for hit in hits] == [image_id for image_id, _ in expected]
            assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=1e-6)
            assert [hit.rank for hit in hits] == list(range(1, min(k, 50) + 1))


def test_an_image_whose_captions_fill_the_top_hides_no_other():
    """Nine rows of the first image are nearer than any of the others."""
    query = np.eye(1, 4, dtype=np.float32)[0]
    angles = np.array([*np.linspace(0, 0.08, 9), 0.5, 1.0, 0.9])
    vectors = np.zeros((12, 4), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    owners = np.array([0] * 9 + [1, 2, 2])
    for kind in ("flat", "ivf"):
        index = Index.build(vectors, ("a", "b", "c"), kind, owners)
        assert (len(index), index.ids) == (12, ("a", "b", "c"))
        (hits,) = index.search(query[None], 3)
        assert [hit.id for hit in hits] == ["a", "b", "c"]
        assert [hit.score for hit in hits] == pytest.approx([1, np.cos(0.5), np.cos(0.9)], abs=1e-6)


def test_many_equal_captions_tie_in_image_order():
    vectors = np.repeat(unit_rows(1, 4), 400, axis=0)
    owners = np.repeat(np.arange(100), 4)
    index = Index.build(vectors, image_ids(100), "flat", owners)
    (hits,) = index.search(vectors[:1], 30)
    assert [hit.id for hit in hits] == list(image_ids(30))


@pytest.mark.parametrize("owners", [[0, 0], [0, 1, 3], [0, 0, 0], [1, 2, 2]])
def test_owners_that_do_not_fit_are_refused(owners):
    with pytest.raises(EmbeddingError, match="3 embeddings were given for 2 ids that own"):
        Index.build(unit_rows(3, 4), ("a", "b"), "flat", np.array(owners))


def test_a_hit_says_which_caption_is_nearest(made, pooling):
    folder, models, _, rows, vectors = made
    texts = {f"query {i}": vector for i, vector in enumerate(unit_rows(10, DIM, seed=5))}
    encoder = PlantedEncoder(models.sentence, texts)
    gallery = Gallery.open(folder, models)
    service = SearchService(gallery, Models(models, sentence=encoder))
    chosen = []
    for text, query in texts.items():
        for hit in service.by_text(text, k=8).hits:
            row = gallery.row(hit.id)
            own = vectors[rows.first[row] : rows.first[row + 1]] @ query
            assert hit.caption == int(own.argmax())
            if pooling == "best":
                assert hit.score == pytest.approx(float(own.max()), abs=1e-6)
            chosen.append(hit.caption)
    assert len(set(chosen)) > 2
    similar = service.similar(gallery.records[3].id, k=5, lens="captions")
    assert gallery.records[3].id not in [hit.id for hit in similar.hits]
    assert [hit.rank for hit in similar.hits] == [1, 2, 3, 4, 5]


def test_embeddings_of_another_number_are_refused(made):
    folder, models, pictures, _, vectors = made
    with pytest.raises(EmbeddingError, match=f"have 50 rows; the records need {len(vectors)}"):
        write_gallery(
            folder,
            name="several",
            records=pictures,
            caption_embeddings=vectors[:50],
            clip_embeddings=unit_rows(50, 6, seed=1),
            copies=PlantedCopies(pictures),
            profile=models,
            source=SourceRef(kind="folder", id="photos"),
        )


def test_an_index_of_the_other_kind_is_found_out(made, pooling):
    folder, models, _, rows, _ = made
    forge_manifest(folder, caption_pooling="best" if pooling == "mean" else "mean")
    with pytest.raises(CorruptGalleryError, match=r"captions.ivf.faiss is not an index .*vectors"):
        Gallery.open(folder, models)


def test_near_duplicates_are_dropped_in_favour_of_the_first():
    near = np.arccos(NEAR_DUPLICATE)
    angles = np.array([0.0, 0.9 * near, 1.1 * near, 2.0, 1.95 * near, 3.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert distinct(vectors, 9) == [0, 2, 3, 5]
    assert distinct(vectors, 3) == [0, 2, 3]
    assert distinct(vectors, 1) == [0]
