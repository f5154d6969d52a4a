"""Files written cluster by cluster are those that FAISS writes of an index that holds all."""

from __future__ import annotations

import errno
from pathlib import Path

import faiss
import numpy as np
import pytest

from core.mapped import scratch
from core.search.engines.training import trained_for_gallery
from core.search.engines.writing import write_filled, write_flat
from tests.core.planted import unit_rows

DIM = 24
FULL = Path("/dev/full")


def trained(kind, vectors, folder):
    return trained_for_gallery(kind, vectors, asked_by_texts=False, folder=folder)[0]


@pytest.mark.parametrize("size", [0, 1, 3, 700, 6000])
@pytest.mark.parametrize("kind", ["ivf", "ivfsq8", "ivfpq", "hnsw"])
def test_the_bytes_are_those_of_faiss(kind, size, tmp_path):
    vectors = unit_rows(size, DIM)
    vectors[: size // 2] = vectors[:1]  # most clusters are empty, one is large
    whole = trained(kind, vectors, tmp_path)
    whole.add(vectors)
    whole.save(tmp_path / "whole")
    write_filled(trained(kind, vectors, tmp_path), vectors, tmp_path / "parts")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_flat_file_is_that_of_faiss(size, tmp_path):
    vectors = unit_rows(size, DIM)
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "whole"))
    write_flat(vectors, tmp_path / "parts")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error_with_its_number(tmp_path):
    vectors = unit_rows(700, DIM)
    for write in (
        lambda: write_filled(trained("ivf", vectors, tmp_path), vectors, FULL),
        lambda: write_flat(vectors, FULL),
    ):
        with pytest.raises(OSError, match="No space left") as full:
            write()
        assert full.value.errno == errno.ENOSPC


def test_scratch_leaves_no_file(tmp_path):
    rows = scratch((1000, 8), tmp_path)
    rows[:] = 3
    assert [*tmp_path.iterdir()] == []
    assert (rows.shape, rows.dtype, float(rows.sum())) == ((1000, 8), np.float32, 24_000.0)
