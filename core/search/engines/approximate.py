"""FAISS's approximate kinds behind one call: how each is made, opened, searched and written."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import numpy as np

from core.files import fsync
from core.mapped import let_go_of
from core.records import IndexKind

HNSW_LINKS = 32
_HNSW_EFFORT = 64
_HNSW_MOST_EFFORT = 4096
_BITS_A_CODE = 8
_ADDED_AT_ONCE = 65_536
_SEARCHES_KEPT = 16
"""After so many, what they looked into of a mapped file leaves resident memory."""
_COMPRESSED_SPARES = {"ivfsq8": 1, "ivfpq": 10}
"""Candidates a hit that are scored again by the embeddings, where codes stand for vectors."""


def library() -> Any:  # noqa: ANN401 - the stubs that come with FAISS lack half of its functions
    """Return the module ``faiss``, imported at the first call."""
    import faiss

    return faiss


def cluster_count(size: int) -> int:
    """Return nlist for ``size`` vectors: min(4 sqrt(n), n / 39), at least 1.

    39 is the least number of training points a cluster that FAISS is content with.
    """
    return max(1, int(min(4 * math.sqrt(size), size / 39)))


def code_bytes(dim: int) -> int:
    """Return the bytes of a vector in an ``ivfpq``: one for every four numbers, if they divide."""
    return next(dim // width for width in (4, 5, 3, 2, 6, 7, 1) if dim % width == 0)


class Approximate:
    """One FAISS index that finds candidates. Safe to search from many threads at once.

    Attributes:
        kind: Any but ``flat``.
        exact: Whether the scores that it gives are those of the embeddings, up to rounding.
        effort: nprobe, or efSearch, of a search that does not ask for another.
        most_effort: From which on more finds no more.
    """

    def __init__(self, kind: IndexKind, index: Any, effort: int | None = None) -> None:  # noqa: ANN401
        """Hold a FAISS index of that kind."""
        self.kind: IndexKind = kind
        self.exact = kind not in _COMPRESSED_SPARES
        self._index = index
        self.most_effort = int(index.nlist) if self.nlist else _HNSW_MOST_EFFORT
        usual = round(math.sqrt(self.nlist)) if self.nlist else _HNSW_EFFORT
        self.effort = min(effort or usual, self.most_effort)
        self._file: tuple[int, int] | None = None
        self._searched = 0

    @classmethod
    def untrained(cls, kind: IndexKind, dim: int, size: int) -> Approximate:
        """Return an index without vectors, for ``size`` of them.

        Args:
            kind: Any but ``flat``.
            dim: Length of a vector.
            size: How many it will hold, which settles the number of clusters.
        """
        faiss = library()
        metric = faiss.METRIC_INNER_PRODUCT
        if kind == "hnsw":
            return cls(kind, faiss.IndexHNSWFlat(dim, HNSW_LINKS, metric))
        centroids, nlist = faiss.IndexFlatIP(dim), cluster_count(size)
        if kind == "ivfsq8":
            quantizer = faiss.ScalarQuantizer.QT_8bit
            index = faiss.IndexIVFScalarQuantizer(centroids, dim, nlist, quantizer, metric)
        elif kind == "ivfpq":
            code = (code_bytes(dim), _BITS_A_CODE)
            index = faiss.IndexIVFPQ(centroids, dim, nlist, *code, metric)
            index.pq.cp.min_points_per_centroid = 1
        else:
            index = faiss.IndexIVFFlat(centroids, dim, nlist, metric)
        index.cp.min_points_per_centroid = 1  # a small gallery is no cause for a warning
        return cls(kind, index)

    @classmethod
    def mapped(cls, kind: IndexKind, path: str, effort: int | None = None) -> Approximate:
        """Open a file that :func:`core.search.engines.files.check_index` found sound.

        Nothing is copied: vectors, codes and links stay in the file, mapped.
        """
        faiss = library()
        if kind == "hnsw":
            return cls(kind, faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC), effort)
        index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
        # Threads that read ahead, started for each search, cost more than what they save.
        lists = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0
        found = cls(kind, index, effort)
        if isinstance(lists, faiss.OnDiskInvertedLists) and lists.read_only:
            found._file = int(lists.ptr), int(lists.totsize)
        return found

    @property
    def nlist(self) -> int | None:
        """Number of clusters; None for ``hnsw``."""
        return None if self.kind == "hnsw" else int(self._index.nlist)

    @property
    def raw(self) -> Any:  # noqa: ANN401
        """The FAISS index."""
        return self._index

    def add(self, vectors: np.ndarray) -> None:
        """Add vectors some at a time, so that mapped ones need not be in memory at once."""
        for start in range(0, len(vectors), _ADDED_AT_ONCE):
            self._index.add(np.ascontiguousarray(vectors[start : start + _ADDED_AT_ONCE]))

    def spares(self, hits: int) -> int:
        """Return how many candidates more than ``hits`` a search needs, to be scored again."""
        return hits * _COMPRESSED_SPARES.get(self.kind, 0)

    def search(
        self,
        queries: np.ndarray,
        count: int,
        effort: int,
        selector: Any = None,  # noqa: ANN401 - a faiss.IDSelector
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows, each (q, count), best first; row -1 fills up what is not found.

        Args:
            queries: float32 (q, dim), rows of unit norm.
            count: Candidates wanted.
            effort: nprobe or efSearch.
            selector: Which rows may be found; None allows all.
        """
        faiss = library()
        # Setting it at the index instead would change the searches of other threads.
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        found: tuple[np.ndarray, np.ndarray] = self._index.search(queries, count, params=parameters)
        self._searched += 1
        if self._file is not None and self._searched % _SEARCHES_KEPT == 0:
            let_go_of(*self._file)
        return found

    def save(self, path: Path) -> None:
        """Write the index as a file of FAISS and force it to disk.

        Raises:
            OSError: It could not be written, as on a full disk.
        """
        faiss = library()
        try:
            with path.open("wb") as file:  # FAISS takes no path that is not text
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))
        except RuntimeError as error:
            reason = f"{path.name} could not be written: {error}"
            raise OSError(errno.EIO, reason) from error
        fsync(path)
