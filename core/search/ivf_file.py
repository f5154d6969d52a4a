"""Reading the IVF index that FAISS wrote, byte by byte checked before it is believed.

FAISS trusts much of what it reads: a file that was made to look right ends the process. Here a
file only says where the centroids are and which vectors belong to which; the vectors themselves
come from the gallery's embeddings.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

_INDEX = struct.Struct("<4siqqqBi")  # name, dim, vectors, unused, unused, is trained, metric
_LISTS = struct.Struct("<4sQQ4s")  # name, lists, bytes a vector, how the sizes are stored
_COUNT = struct.Struct("<Q")
_NO_DIRECT_MAP = b"\0"
_INNER_PRODUCT = 0


@dataclass(frozen=True, slots=True)
class Clusters:
    """What training an IVF index found.

    Attributes:
        centroids: float32 (nlist, dim).
        members: int64 (n,): the cluster of each vector.
    """

    centroids: np.ndarray
    members: np.ndarray


def read_clusters(content: np.ndarray, size: int, dim: int) -> Clusters:
    """Return the clusters of an ``IndexIVFFlat`` by inner product that ``write_index`` wrote.

    Args:
        content: The file's bytes: uint8 (length,).
        size: How many vectors there are.
        dim: Their length.

    Raises:
        ValueError: It is not such an index of so many vectors, each in one cluster.
    """
    file = _Reader(content)
    _require_index(file, b"IwFl", size, dim)
    nlist, _ = file.count(), file.count()  # the second is nprobe, which each search gives itself
    if not 1 <= nlist <= max(1, size):
        raise ValueError(f"it has {nlist} clusters for {size} vectors")
    _require_index(file, b"IxFI", nlist, dim)
    if file.count() != nlist * dim:
        raise ValueError("its centroids are not as many as its clusters")
    centroids = file.array(np.float32, nlist * dim).reshape(nlist, dim)
    if not np.isfinite(centroids).all():
        raise ValueError("a centroid is not finite")
    if file.take(1) != _NO_DIRECT_MAP or file.count() != 0:
        raise ValueError("it has a direct map")
    sizes = _list_sizes(file, nlist, 4 * dim)
    if sizes.min() < 0 or sizes.max() > size or sizes.sum() != size:
        raise ValueError(f"its clusters do not hold {size} vectors")
    members = np.full(size, -1, np.int64)
    for cluster in np.flatnonzero(sizes):
        length = int(sizes[cluster])
        file.take(length * 4 * dim)
        rows = file.array(np.int64, length)
        if rows.min() < 0 or rows.max() >= size:
            raise ValueError(f"a cluster names a vector outside 0 to {size - 1}")
        members[rows] = cluster
    # As many rows as vectors were read, so one that comes twice leaves another one out.
    if (members < 0).any():
        raise ValueError("a vector is in two clusters")
    file.require_end()
    return Clusters(centroids, members)


def _require_index(file: _Reader, name: bytes, size: int, dim: int) -> None:
    found, its_dim, its_size, _, _, trained, metric = file.unpack(_INDEX)
    if found != name or trained != 1 or metric != _INNER_PRODUCT:
        raise ValueError("it is not an IVF index by inner product")
    if (its_size, its_dim) != (size, dim):
        raise ValueError(f"it is of {its_size} vectors of length {its_dim}, not {size} of {dim}")


def _list_sizes(file: _Reader, nlist: int, code_bytes: int) -> np.ndarray:
    """Return how many vectors each cluster has: int64 (nlist,), not checked."""
    name, lists, width, storage = file.unpack(_LISTS)
    if (name, lists, width) != (b"ilar", nlist, code_bytes):
        raise ValueError("its lists are not of its clusters")
    if storage == b"full":
        if file.count() != nlist:
            raise ValueError("its lists are not as many as its clusters")
        return file.array(np.int64, nlist)
    if storage != b"sprs":
        raise ValueError("its lists are stored in a way that is not known")
    pairs = file.count()
    if pairs % 2 or pairs > 2 * nlist:
        raise ValueError("its lists are not as many as its clusters")
    clusters, filled = file.array(np.int64, pairs).reshape(-1, 2).T
    if clusters.size and (
        clusters[0] < 0 or clusters[-1] >= nlist or (np.diff(clusters) < 1).any()
    ):
        raise ValueError("its lists are not in order")
    sizes = np.zeros(nlist, np.int64)
    sizes[clusters] = filled
    return sizes


class _Reader:
    """Takes a file's bytes in order, and never more than there are."""

    def __init__(self, content: np.ndarray) -> None:
        self._content = np.ascontiguousarray(content, np.uint8).data
        self._at = 0

    def take(self, length: int) -> memoryview:
        taken = self._content[self._at : self._at + length]
        if len(taken) != length:
            raise ValueError("it ends too early")
        self._at += length
        return taken

    def unpack(self, layout: struct.Struct) -> tuple:  # type: ignore[type-arg]
        return layout.unpack(self.take(layout.size))

    def count(self) -> int:
        return int(self.unpack(_COUNT)[0])

    def array(self, dtype: type[np.generic], length: int) -> np.ndarray:
        size = length * np.dtype(dtype).itemsize
        # A copy, for the file's numbers need not begin where the processor wants them to.
        return np.frombuffer(self.take(size), dtype).copy()

    def require_end(self) -> None:
        if self._at != len(self._content):
            raise ValueError("it goes on after its end")
