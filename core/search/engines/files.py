"""Reading the indexes that FAISS wrote, each number checked before it is believed.

FAISS trusts much of what it reads: a file that was made to look right ends the process. Of a small
IVF index only the centroids are read and which vectors belong to which; the vectors themselves
come from the gallery's embeddings. A large file is checked here, and then mapped by FAISS.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.records import IndexKind

INDEX = struct.Struct("<4siqqqBi")  # name, dim, vectors, unused, unused, is trained, metric
LISTS = struct.Struct("<4sQQ4s")  # name, lists, bytes a vector, how the sizes are stored
COUNT = struct.Struct("<Q")
_NO_DIRECT_MAP = b"\0"
INNER_PRODUCT = 0
_NAMES: Mapping[str, bytes] = {"ivf": b"IwFl", "ivfsq8": b"IwSq", "ivfpq": b"IwPQ"}
_SCALAR = struct.Struct("<iifQQQ")  # quantizer, range, its argument, dim, bytes, trained numbers
_SCALAR_END = struct.Struct("<QB")  # bytes a vector, by residual
_PRODUCT = struct.Struct("<BQQQQQ")  # by residual, bytes, dim, parts, bits, trained numbers
_EIGHT_BITS = 0
_GRAPH_END = struct.Struct("<iiiii")  # entry point, top level, three numbers of the search


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
    centroids = _centroids(file, b"IwFl", size, dim)
    members = _members(file, len(centroids), 4 * dim, size)
    file.require_end()
    return Clusters(centroids, members)


def check_index(content: np.ndarray, kind: IndexKind, size: int, dim: int) -> None:
    """Check a file that FAISS shall read: every number that it takes for a size or a place.

    Args:
        content: The file's bytes, mapped: uint8 (length,). The codes of vectors are not read.
        kind: Any but ``flat``.
        size: How many vectors there are.
        dim: Their length.

    Raises:
        ValueError: It is not an index of that kind of so many vectors.
    """
    file = _Reader(content)
    if kind == "hnsw":
        _check_links(file, size, dim)
        _require_index(file, b"IxFI", size, dim)
        if file.count() != size * dim:
            raise ValueError("its vectors are not as many as its links")
        file.take(4 * size * dim)
    else:
        nlist = len(_centroids(file, _NAMES[kind], size, dim))
        _members(file, nlist, _code_bytes(file, kind, dim), size)
    file.require_end()


def _centroids(file: _Reader, name: bytes, size: int, dim: int) -> np.ndarray:
    _require_index(file, name, size, dim)
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
    return centroids


def _code_bytes(file: _Reader, kind: IndexKind, dim: int) -> int:
    """Read how vectors are coded; return the bytes of each."""
    if kind == "ivf":
        return 4 * dim
    if kind == "ivfsq8":
        quantizer, _, _, its_dim, width, trained = file.unpack(_SCALAR)
        if (quantizer, its_dim, width, trained) != (_EIGHT_BITS, dim, dim, 2 * dim):
            raise ValueError("its codes are not of 8 bits a number")
        if not np.isfinite(file.array(np.float32, trained)).all():
            raise ValueError("the range of a code is not finite")
        width_again, _ = file.unpack(_SCALAR_END)
        if width_again != width:
            raise ValueError("its codes have two widths")
        return dim
    _, width, its_dim, parts, bits, numbers = file.unpack(_PRODUCT)
    whole = 1 <= parts <= dim and dim % parts == 0
    if not whole or (width, its_dim, bits, numbers) != (parts, dim, 8, 256 * dim):
        raise ValueError("its codes are not of 8 bits a part")
    if not np.isfinite(file.array(np.float32, numbers)).all():
        raise ValueError("a code stands for no number")
    return int(width)


def _members(file: _Reader, nlist: int, code_bytes: int, size: int) -> np.ndarray:
    """Read the lists; return the cluster of each vector: int64 (size,)."""
    sizes = _list_sizes(file, nlist, code_bytes)
    if sizes.min() < 0 or sizes.max() > size or sizes.sum() != size:
        raise ValueError(f"its clusters do not hold {size} vectors")
    members = np.full(size, -1, np.int64)
    for cluster in np.flatnonzero(sizes):
        length = int(sizes[cluster])
        file.take(length * code_bytes)
        rows = file.array(np.int64, length)
        if rows.min() < 0 or rows.max() >= size:
            raise ValueError(f"a cluster names a vector outside 0 to {size - 1}")
        members[rows] = cluster
    # As many rows as vectors were read, so one that comes twice leaves another one out.
    if (members < 0).any():
        raise ValueError("a vector is in two clusters")
    return members


def _check_links(file: _Reader, size: int, dim: int) -> None:
    """Check the graph of an ``IndexHNSWFlat``: each link leads to a vector of its level."""
    _require_index(file, b"IHNf", size, dim)
    file.vector(np.float64)  # what drew the levels
    a_level = file.vector(np.int32)
    levels = file.vector(np.int32)
    offsets = file.vector(np.int64)
    links = file.vector(np.int32)
    entry, top, _, _, _ = file.unpack(_GRAPH_END)
    if len(a_level) < 2 or a_level[0] != 0 or (np.diff(a_level) < 0).any():
        raise ValueError("its levels are not in order")
    if len(levels) != size or (size and not 1 <= levels.min() <= levels.max() < len(a_level)):
        raise ValueError("its levels are not those of its vectors")
    if len(offsets) != size + 1 or offsets[0] != 0 or offsets[-1] != len(links):
        raise ValueError("its links are not those of its vectors")
    if not np.array_equal(np.diff(offsets), a_level[levels]):
        raise ValueError("its links are not those of its vectors")
    if len(links) and (links.min() < -1 or links.max() >= size):
        raise ValueError(f"a link leads outside 0 to {size - 1}")
    if size and not (0 <= entry < size and top == levels[entry] - 1 == levels.max() - 1):
        raise ValueError("its entry is not at the top")
    for level in range(1, int(levels.max(initial=1))):
        owners = np.flatnonzero(levels > level)
        for begin in range(int(a_level[level]), int(a_level[level + 1])):
            targets = links[offsets[owners] + begin]
            if (levels[targets[targets >= 0]] <= level).any():
                raise ValueError("a link leads below its level")


def _require_index(file: _Reader, name: bytes, size: int, dim: int) -> None:
    found, its_dim, its_size, _, _, trained, metric = file.unpack(INDEX)
    if found != name or trained != 1 or metric != INNER_PRODUCT:
        raise ValueError("it is not an IVF index by inner product")
    if (its_size, its_dim) != (size, dim):
        raise ValueError(f"it is of {its_size} vectors of length {its_dim}, not {size} of {dim}")


def _list_sizes(file: _Reader, nlist: int, code_bytes: int) -> np.ndarray:
    """Return how many vectors each cluster has: int64 (nlist,), not checked."""
    name, lists, width, storage = file.unpack(LISTS)
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
        return int(self.unpack(COUNT)[0])

    def array(self, dtype: type[np.generic], length: int) -> np.ndarray:
        size = length * np.dtype(dtype).itemsize
        # A copy, for the file's numbers need not begin where the processor wants them to.
        return np.frombuffer(self.take(size), dtype).copy()

    def vector(self, dtype: type[np.generic]) -> np.ndarray:
        length = self.count()
        if length * np.dtype(dtype).itemsize > len(self._content):
            raise ValueError("it ends too early")
        return self.array(dtype, length)

    def require_end(self) -> None:
        if self._at != len(self._content):
            raise ValueError("it goes on after its end")
