"""An index over unit vectors: FAISS finds the candidates, this module settles score and order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import EmbeddingError, QueryError
from core.mapped import let_go, read_rows
from core.records import FAISS_KINDS, Hit, IndexKind
from core.search.engines.approximate import Approximate, library
from core.search.engines.files import Clusters
from core.search.engines.training import trained_index
from core.search.engines.writing import write_flat
from core.search.query import check_index_kind

NORM_TOLERANCE = 1e-3
"""How far from 1 the norm of an embedding may be."""

# FAISS sums float32 products in an order that depends on batch size and position, so two scores
# closer than this may come in either order, and equal vectors may get unequal scores.
_SCORE_UNCERTAINTY = 1e-5
_SPARE_CANDIDATES = 16
_QUERIES_A_BATCH = 256
# Comparing with so many vectors, one by one, takes less than looking for them in clusters.
FEW_VECTORS = 4096


def check_embeddings(embeddings: np.ndarray, dim: int | None = None) -> np.ndarray:
    """Return the embeddings as C-contiguous float32, or raise one error that quotes the numbers.

    Args:
        embeddings: Floating-point (n, dim); n may be 0.
        dim: The length that is needed; None accepts any of 1 or more.

    Raises:
        EmbeddingError: Wrong shape or dtype, a value that is not finite, or a row whose norm is
            further than :data:`NORM_TOLERANCE` from 1.
    """
    array = np.asarray(embeddings)
    if array.dtype.kind != "f":
        raise EmbeddingError(f"Embeddings must be float32; these are {array.dtype}.")
    if array.ndim != 2 or array.shape[1] == 0:
        raise EmbeddingError(f"Embeddings must have the shape (n, dim); got {array.shape}.")
    if dim is not None and array.shape[1] != dim:
        raise EmbeddingError(f"Embeddings of length {dim} are needed; got length {array.shape[1]}.")
    array = np.ascontiguousarray(array, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", array, array))
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
    if wrong.size:
        row = int(wrong[0])
        if not np.isfinite(array[row]).all():
            unfit = int((~np.isfinite(array).all(axis=1)).sum())
            raise EmbeddingError(
                f"Row {row} holds a value that is not finite ({unfit} of {len(array)} rows do)."
            )
        raise EmbeddingError(
            f"Row {row} has norm {norms[row]:.6g}, but unit norm is needed "
            f"({wrong.size} of {len(array)} rows differ from 1 by more than {NORM_TOLERANCE:g})."
        )
    return array


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where one search looks.

    Attributes:
        size: How many vectors may be found.
        effort: nprobe or efSearch; None compares with all that may be found.
        rows: The vectors that may be found, if they are few: int64 (size,).
        bits: Otherwise one bit for each vector, if not all may be found: uint8.
    """

    size: int
    effort: int | None
    rows: np.ndarray | None = None
    bits: np.ndarray | None = None

    def selector(self) -> Any:  # noqa: ANN401 - a FAISS type or None
        faiss = library()
        if self.rows is not None:
            return faiss.IDSelectorArray(self.rows)
        return None if self.bits is None else faiss.IDSelectorBitmap(self.bits)


class Index:
    """Image ids ranked by inner product with a query; higher is better.

    Make one with :meth:`build` or :meth:`restore`, or of verified parts. Safe to search from many
    threads at once: a search changes nothing, nprobe included. A search of one query runs on the
    calling thread.

    Ties: scores are recomputed in double precision from the embeddings and rounded to
    float32; images of equal score come in row order, whatever the kind, k or batch size.

    An image may have several vectors: it is ranked by the nearest of them, and comes once.

    Attributes:
        ids: Id of each image, in row order.
        approximate: What finds candidates among the vectors; None compares with each of them.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        ids: Sequence[str],
        owners: np.ndarray | None = None,
        approximate: Approximate | None = None,
    ) -> None:
        """Hold embeddings that were checked; nothing is copied or read.

        Args:
            vectors: float32 (n, dim), rows of unit norm, in memory or mapped.
            ids: See :meth:`build`; likewise ``owners``.
            owners: See there.
            approximate: An index over the vectors; None compares a query with each of them.
        """
        self._vectors = vectors
        self.approximate = approximate
        self.ids = ids
        self._kind: IndexKind = "flat" if approximate is None else approximate.kind
        self._owners = owners
        self._most_vectors = 1 if owners is None else int(np.bincount(owners).max(initial=1))

    @classmethod
    def build(
        cls,
        embeddings: np.ndarray,
        ids: Sequence[str],
        kind: IndexKind,
        owners: np.ndarray | None = None,
    ) -> Index:
        """Index embeddings; the same input gives the same index, byte for byte.

        Args:
            embeddings: float32 (n, dim), rows of unit norm; n may be 0. They are not copied, and
                must not be changed.
            ids: Image ids, in row order.
            kind: ``flat``, which costs nothing to make, or another, trained with all vectors.
            owners: The place in ``ids`` of each row's image: int (n,), each image once or more;
                None stands for n images of one row each.

        Raises:
            EmbeddingError: See :func:`check_embeddings`; or the numbers of rows and ids differ.
            QueryError: Unknown kind.
        """
        check_index_kind(kind, FAISS_KINDS)
        vectors = check_embeddings(embeddings)
        _check_owners(len(vectors), ids, owners)
        if kind == "flat":
            return cls(vectors, ids, owners)
        approximate = trained_index(kind, vectors, vectors)
        approximate.add(vectors)
        return cls(vectors, ids, owners, approximate)

    @classmethod
    def restore(
        cls,
        clusters: Clusters,
        embeddings: np.ndarray,
        ids: Sequence[str],
        owners: np.ndarray | None = None,
        effort: int | None = None,
    ) -> Index:
        """Make an ``ivf`` index of an earlier build without training it again.

        Args:
            clusters: What :func:`core.search.engines.files.read_clusters` read, of as many
                embeddings.
            embeddings: As the index was built with; so are the next two.
            ids: Image ids, in row order.
            owners: See :meth:`build`.
            effort: nprobe unless a search asks for another.

        Raises:
            EmbeddingError: See :meth:`build`.
        """
        faiss = library()
        vectors = check_embeddings(embeddings, clusters.centroids.shape[1])
        _check_owners(len(vectors), ids, owners)
        if len(vectors) != len(clusters.members):
            raise EmbeddingError(
                f"{len(vectors)} embeddings were given for clusters of {len(clusters.members)}."
            )
        centroids = faiss.IndexFlatIP(vectors.shape[1])
        clustered = faiss.IndexIVFFlat(
            *(centroids, vectors.shape[1], len(clusters.centroids), faiss.METRIC_INNER_PRODUCT)
        )
        clustered.quantizer.add(clusters.centroids)
        clustered.is_trained = True
        rows = np.arange(len(vectors), dtype=np.int64)
        clustered.add_core(len(vectors), *map(faiss.swig_ptr, (vectors, rows, clusters.members)))
        return cls(vectors, ids, owners, Approximate("ivf", clustered, effort))

    def save(self, path: Path) -> None:
        """Write the index as a file of FAISS and force it to disk; the ids are not part of it.

        Raises:
            OSError: It could not be written, as on a full disk.
        """
        if self.approximate is None:
            return write_flat(self._vectors, path)
        return self.approximate.save(path)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._vectors)

    @property
    def kind(self) -> IndexKind:
        """See :data:`core.records.IndexKind`."""
        return self._kind

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    @property
    def nlist(self) -> int | None:
        """Number of clusters; None for a kind that has none."""
        return None if self.approximate is None else self.approximate.nlist

    @property
    def default_nprobe(self) -> int | None:
        """Clusters searched unless asked otherwise; None for a kind that has none.

        What the build found to be enough, or else the root of nlist.
        """
        found = self.approximate
        return None if found is None or found.nlist is None else found.effort

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        nprobe: int | None = None,
        among: np.ndarray | None = None,
    ) -> list[list[Hit]]:
        """Rank the images for each query.

        Args:
            queries: float32 (q, dim), rows of unit norm.
            k: Hits a query, 1 or more; capped at the number of images. An IVF search may give
                fewer, when the clusters it looked into hold fewer.
            nprobe: Clusters an IVF search looks into, 1 or more, capped at nlist; None takes
                :attr:`default_nprobe`. A kind without clusters ignores it.
            among: Which images may be found: bool (images,), in the order of :attr:`ids`; None
                allows all. A filter costs no recall: the fewer images it leaves, the more
                clusters are looked into, and a search that meets too few becomes an exact one.

        Returns:
            One ranking for each query, best first.

        Raises:
            EmbeddingError: See :func:`check_embeddings`; or ``among`` is not one bool an image.
            QueryError: k or nprobe below 1.
        """
        if k < 1:
            raise QueryError(f"k must be 1 or more; got {k}.")
        if nprobe is not None and nprobe < 1:
            raise QueryError(f"nprobe must be 1 or more; got {nprobe}.")
        vectors = check_embeddings(queries, self.dim)
        scope = self._scope(nprobe, among)
        # So many vectors belong to k images or more, however they are shared out.
        depth = min(scope.size, (min(k, len(self.ids)) - 1) * self._most_vectors + 1)
        if depth < 1:
            return [[] for _ in vectors]
        rankings: list[list[Hit]] = []
        for start in range(0, len(vectors), _QUERIES_A_BATCH):
            batch = vectors[start : start + _QUERIES_A_BATCH]
            rankings += self._search_batch(batch, k, depth, scope)
        return rankings

    def _scope(self, nprobe: int | None, among: np.ndarray | None) -> _Scope:
        found = self.approximate
        effort = None if found is None else found.effort
        if found is not None and found.nlist is not None:
            effort = min(nprobe or found.effort, found.nlist)
        if among is None:
            return _Scope(len(self), effort)
        if among.shape != (len(self.ids),) or among.dtype != np.bool_:
            raise EmbeddingError(
                f"A filter must be one bool for each of {len(self.ids)} images; "
                f"got {among.dtype} {among.shape}."
            )
        allowed = among if self._owners is None else among[self._owners]
        size = int(np.count_nonzero(allowed))
        if size <= FEW_VECTORS:
            return _Scope(size, None, rows=np.flatnonzero(allowed))
        if found is not None and effort is not None:
            effort = min(found.most_effort, math.ceil(effort * len(self) / size))
        return _Scope(size, effort, bits=np.packbits(allowed, bitorder="little"))

    def _search_batch(
        self, vectors: np.ndarray, k: int, depth: int, scope: _Scope
    ) -> list[list[Hit]]:
        """Search with spare candidates, and again with more where the cut may split a tie."""
        rankings: list[list[Hit]] = [[] for _ in vectors]
        pending = np.arange(len(vectors))
        spares = _SPARE_CANDIDATES + (self.approximate.spares(depth) if self.approximate else 0)
        fetched = min(scope.size, depth + spares)
        # Where codes stand for vectors, close scores say nothing of a tie.
        compressed = self.approximate is not None and not self.approximate.exact
        inexact = compressed and scope.effort is not None
        while pending.size:
            queries = vectors[pending]
            scores, rows = self._nearest(queries, fetched, depth, scope)
            settled = (
                (rows[:, -1] < 0)
                | (scores[:, depth - 1] - scores[:, -1] > _SCORE_UNCERTAINTY)
                | (fetched == scope.size)
                | inexact
            )
            for position in np.flatnonzero(settled):
                kept = rows[position] >= 0
                rankings[pending[position]] = self._rank(queries[position], rows[position][kept], k)
            pending = pending[~settled]
            fetched = min(scope.size, 4 * fetched)
        return rankings

    def _nearest(self, queries: np.ndarray, count: int, depth: int, scope: _Scope) -> Any:  # noqa: ANN401
        """Return scores and rows, each (q, count), best first; -1 fills up what is not found."""
        if scope.effort is None or self.approximate is None:
            return self._exact(queries, count, scope)
        selector = scope.selector()
        scores, rows = self.approximate.search(queries, count, scope.effort, selector)
        # What a filter allows may lie in other clusters than those nearest to the query.
        short = np.flatnonzero(rows[:, depth - 1] < 0) if scope.bits is not None else ()
        if len(short):
            scores[short], rows[short] = self._exact(queries[short], count, scope)
        return scores, rows

    def _exact(self, queries: np.ndarray, count: int, scope: _Scope) -> Any:  # noqa: ANN401
        faiss = library()
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        queries = np.ascontiguousarray(queries)
        # faiss.knn, which has no filter: an IndexFlat would hold a copy of the embeddings.
        faiss.knn_inner_product(
            *map(faiss.swig_ptr, (queries, self._vectors)),
            *(self.dim, len(queries), len(self), count),
            *map(faiss.swig_ptr, (scores, rows)),
            scope.selector(),
        )
        let_go(self._vectors)
        return scores, rows

    def _rank(self, query: np.ndarray, rows: np.ndarray, k: int) -> list[Hit]:
        products = read_rows(self._vectors, rows).astype(np.float64) * query.astype(np.float64)
        scores = products.sum(axis=1).astype(np.float32)
        if self._owners is not None:
            rows = self._owners[rows]
            best_first = np.lexsort((-scores, rows))
            rows, at = np.unique(rows[best_first], return_index=True)
            scores = scores[best_first][at]
        order = np.lexsort((rows, -scores))[:k]
        return [
            Hit(id=self.ids[rows[at]], score=min(1.0, max(-1.0, float(scores[at]))), rank=rank)
            for rank, at in enumerate(order, start=1)
        ]


def _check_owners(vectors: int, ids: Sequence[str], owners: np.ndarray | None) -> None:
    if owners is None:
        if vectors != len(ids):
            raise EmbeddingError(f"{vectors} embeddings were given for {len(ids)} ids.")
    elif len(owners) != vectors or not np.array_equal(np.unique(owners), np.arange(len(ids))):
        raise EmbeddingError(
            f"{vectors} embeddings were given for {len(ids)} ids that own {len(owners)} rows."
        )
