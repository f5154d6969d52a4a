"""Rows of a mapped file are read, nothing around them, and none of it stays with the process."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import psutil
import pytest

from core.mapped import MappedFile, let_go, read_rows
from core.search.engines.approximate import Approximate
from core.search.index import Index
from tests.core.page_cache import cached_pages, forget
from tests.core.planted import unit_rows

HEADER, DIM = 128, 384


def resident_bytes(path: Path) -> int:
    """Return what of a mapped file is in this process's resident memory."""
    if not hasattr(psutil.Process, "memory_maps"):
        pytest.skip("this system does not tell")
    return sum(part.rss for part in psutil.Process().memory_maps() if part.path == str(path))


def mapped_array(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        mapped = MappedFile(file.fileno(), path.stat().st_size)
    return np.frombuffer(mapped, np.uint8)[HEADER:].view(np.float32).reshape(-1, DIM)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.arange(20_000 * DIM, dtype=np.float32).reshape(-1, DIM)


@pytest.fixture
def path(tmp_path, vectors) -> Path:
    path = tmp_path / "vectors"
    path.write_bytes(bytes(HEADER) + vectors.tobytes())
    return path


def test_rows_that_lie_far_apart_are_read_and_no_others(path, vectors):
    forget(path)
    rows = np.array([12_345, 0, 7_000, 7_001, 7_002, 19_999, 0])
    array = mapped_array(path)
    assert np.array_equal(read_rows(array, rows), vectors[rows])
    needed = {
        byte // mmap.PAGESIZE
        for row in rows.tolist()
        for byte in (HEADER + 4 * DIM * row, HEADER + 4 * DIM * (row + 1) - 1)
    }
    assert set(np.flatnonzero(cached_pages(path)).tolist()) == needed
    assert resident_bytes(path) == 0
    assert array.sum() > 0 and resident_bytes(path) > array.nbytes // 2
    let_go(array)
    assert resident_bytes(path) == 0


def test_other_rows_are_read_as_ever(path, vectors):
    some = np.array([2, 1])
    assert np.array_equal(read_rows(vectors, some), vectors[some])
    assert read_rows(mapped_array(path), some[:0]).shape == (0, DIM)
    let_go(vectors)
    assert vectors[1, 0] == DIM


def test_a_file_that_was_shortened_is_an_error_and_no_wrong_answer(path):
    array = mapped_array(path)
    os.truncate(path, 1_000_000)
    with pytest.raises(OSError, match="shortened"):
        read_rows(array, np.array([0, 19_000]))


def test_an_index_lets_go_of_what_searches_looked_into(tmp_path):
    vectors, path = unit_rows(20_000, 64), tmp_path / "index.faiss"
    index = Index.build(vectors, [f"{row}" for row in range(20_000)], "ivfsq8")
    index.save(path)
    opened = Approximate.mapped("ivfsq8", str(path))
    answers = []
    for turn in range(1, 33):
        scores, rows = opened.search(vectors[:1], 10, 100)
        answers.append((scores.tolist(), rows.tolist()))
        assert (resident_bytes(path) == 0) == (turn % 16 == 0)
    assert all(each == answers[0] for each in answers)
