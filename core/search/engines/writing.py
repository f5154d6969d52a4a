"""Writing an index cluster by cluster: the bytes that FAISS would write, its vectors never held.

FAISS gathers every vector, or its code, in memory before the first byte of a file. Here memory
holds the centroids, 12 bytes a vector that say which cluster each belongs to, and one part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.files import fsync
from core.mapped import scratch
from core.search.engines.approximate import Approximate, library
from core.search.engines.files import COUNT, INDEX, INNER_PRODUCT, LISTS

_ASSIGNED_AT_ONCE = 65_536
"""As FAISS assigns them: other parts could round a tie between two centroids differently."""
_CODED_AT_ONCE = 4_096
_UNUSED = 1 << 20  # two numbers that FAISS writes into each file and ignores


def write_flat(vectors: np.ndarray, path: Path) -> None:
    """Write an ``IndexFlatIP`` of vectors, onto the disk.

    Args:
        vectors: float32 (n, dim), in memory or mapped.
        path: Of the file.

    Raises:
        OSError: It could not be written.
    """
    size, dim = vectors.shape
    with path.open("wb") as file:
        file.write(INDEX.pack(b"IxFI", dim, size, _UNUSED, _UNUSED, 1, INNER_PRODUCT))
        file.write(COUNT.pack(size * dim))
        for start in range(0, size, _CODED_AT_ONCE):
            file.write(np.ascontiguousarray(vectors[start : start + _CODED_AT_ONCE]).data)
    fsync(path)


def write_filled(approximate: Approximate, vectors: np.ndarray, path: Path) -> None:
    """Write an index with vectors in it, onto the disk, as if all had been added before.

    Only ``hnsw`` holds them all: its links are found among the vectors that are there.

    Args:
        approximate: Trained and empty; of no use afterwards.
        vectors: float32 (n, dim), rows of unit norm, in memory or mapped.
        path: Of the file.

    Raises:
        OSError: It could not be written.
    """
    index = approximate.raw
    if approximate.kind == "hnsw":
        approximate.add(vectors)
        return approximate.save(path)
    clusters = np.empty(len(vectors), np.int32)
    for start in range(0, len(vectors), _ASSIGNED_AT_ONCE):
        _, nearest = index.quantizer.search(vectors[start : start + _ASSIGNED_AT_ONCE], 1)
        clusters[start : start + len(nearest)] = nearest[:, 0]
    sizes = np.bincount(clusters, minlength=index.nlist).astype(np.int64)
    by_cluster = np.split(np.argsort(clusters, kind="stable"), np.cumsum(sizes)[:-1])
    index.ntotal = len(vectors)
    with path.open("wb") as file:
        file.write(_before_lists(index) + _lists(index, sizes))
        for cluster, rows in enumerate(by_cluster):
            for start in range(0, len(rows), _CODED_AT_ONCE):
                file.write(_codes(index, vectors, rows[start : start + _CODED_AT_ONCE], cluster))
            file.write(rows.data)
    fsync(path)


def sampled(vectors: np.ndarray, rows: np.ndarray, folder: Path) -> np.ndarray:
    """Return a copy of some vectors, mapped (:func:`core.mapped.scratch`).

    Args:
        vectors: float32 (n, dim), in memory or mapped.
        rows: int (m,), one or more.
        folder: On whose disk the copy lies.

    Raises:
        OSError: There is no room.
    """
    found = scratch((len(rows), vectors.shape[1]), folder)
    for start in range(0, len(rows), _CODED_AT_ONCE):
        part = rows[start : start + _CODED_AT_ONCE]
        found[start : start + len(part)] = vectors[part]
    return found


def _before_lists(index: Any) -> bytes:  # noqa: ANN401 - a FAISS type
    """Return what a file of FAISS has before its lists, which are the last thing in it."""
    content = library().serialize_index(index).tobytes()
    none = _lists(index, np.zeros(index.nlist, np.int64))
    if not content.endswith(none):
        raise RuntimeError("FAISS writes an empty index in another way than is known.")
    return content.removesuffix(none)


def _lists(index: Any, sizes: np.ndarray) -> bytes:  # noqa: ANN401 - a FAISS type
    """Return how a file names the sizes of its lists: those of the filled ones, if they are few."""
    filled = np.flatnonzero(sizes)
    few = len(filled) <= len(sizes) // 2
    named = np.stack([filled, sizes[filled]], axis=1).ravel() if few else sizes
    storage = b"sprs" if few else b"full"
    header = LISTS.pack(b"ilar", index.nlist, index.code_size, storage) + COUNT.pack(len(named))
    return header + named.astype(np.int64).tobytes()


def _codes(index: Any, vectors: np.ndarray, rows: np.ndarray, cluster: int) -> memoryview:  # noqa: ANN401
    """Return what an index holds of some vectors of one cluster."""
    swig_ptr = library().swig_ptr
    part, clusters = vectors[rows], np.full(len(rows), cluster, np.int64)
    codes = np.empty((len(rows), index.code_size), np.uint8)
    index.encode_vectors(len(rows), *map(swig_ptr, (part, clusters, codes)))
    return codes.data
