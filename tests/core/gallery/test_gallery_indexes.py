"""Galleries whose indexes are other than the pair: written, measured, checked and searched."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import CorruptGalleryError, QueryError
from core.gallery import parts, picture_set
from core.gallery.caption_rows import CaptionRows
from core.gallery.layout import index_file
from core.gallery.picture_set import sampled_rows
from core.gallery.reader import Gallery
from core.records import LENSES
from tests.core.gallery.test_gallery import write


@pytest.mark.parametrize("kind", ["ivf", "ivfsq8", "ivfpq", "hnsw"])
@pytest.mark.parametrize("verify_up_to", [0, 1 << 30])
def test_a_gallery_is_searched_by_the_index_that_it_has(planted, tmp_path, kind, verify_up_to):
    manifest = write(planted, tmp_path, indexes=(kind,))
    assert manifest.index_kinds == (kind,)
    assert sorted(name for name in manifest.files if name.endswith(".faiss")) == [
        index_file("captions", kind),
        index_file("clip", kind),
    ]
    gallery = Gallery.open(tmp_path, planted.profile, verify_up_to=verify_up_to)
    assert gallery.index_kinds == (kind,)
    for lens in LENSES:
        queries = getattr(planted, lens)[:5]
        index = gallery.index(lens)
        assert index.kind == kind
        found = index.search(queries, 3, nprobe=1000)
        assert found == gallery.exact_index(lens).search(queries, 3)
        with pytest.raises(QueryError, match=f"no flat index; it has {kind}"):
            gallery.index(lens, "flat")


def test_an_index_of_something_else_is_refused_before_faiss_reads_it(
    planted, tmp_path, monkeypatch
):
    monkeypatch.setattr(parts, "SMALL_FILE_BYTES", 0)
    write(planted, tmp_path, indexes=("ivfsq8",))
    path = tmp_path / index_file("clip", "ivfsq8")
    content = bytearray(path.read_bytes())
    content[4] ^= 1  # the length of a vector
    path.write_bytes(content)
    gallery = Gallery.open(tmp_path, planted.profile, verify_up_to=0)
    with pytest.raises(CorruptGalleryError, match="clip.ivfsq8.faiss is not an index of its emb"):
        gallery.index("clip")
    with pytest.raises(CorruptGalleryError, match="clip.ivfsq8.faiss is not the file"):
        Gallery.open(tmp_path, planted.profile)


def test_a_sample_of_rows_lies_all_over_them():
    rows = sampled_rows(1_000_000)
    assert (rows[0], rows[-1]) == (0, 999_999)
    assert len(rows) == 2048 * 16 and np.diff(rows).max() < 500
    assert len(sampled_rows(1_000_000, 4)) == 2048 * 4
    assert sampled_rows(32_768).tolist() == list(range(32_768))


def test_a_spread_is_that_of_all_scores_or_of_those_of_a_sample(planted, tmp_path, monkeypatch):
    write(planted, tmp_path)
    monkeypatch.setattr(picture_set, "ROWS_AT_ONCE", 4)
    for blocks in (2048, 2):
        monkeypatch.setattr(picture_set, "BLOCKS", blocks)
        gallery = Gallery.open(tmp_path, planted.profile)
        rows = sampled_rows(len(gallery))
        assert len(rows) == min(len(gallery), 16 * blocks)
        for lens in LENSES:
            query = getattr(planted, lens)[1]
            scores, spread = gallery.all_scores(lens, query)[rows], gallery.spread(lens, query)
            assert spread.mean == pytest.approx(scores.mean(), abs=1e-5)
            assert spread.deviation == pytest.approx(scores.std(), abs=1e-5)


def test_the_caption_rows_of_some_images():
    rows = CaptionRows.counted([1, 3, 2, 1])
    found, begins = rows.rows_of(np.array([2, 0, 1]))
    assert found.tolist() == [4, 5, 0, 1, 2, 3]
    assert begins.tolist() == [0, 2, 3]
