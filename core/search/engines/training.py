"""Which index a gallery gets, its training, and the least effort that finds enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.records import INDEX_PAIR, IndexKind
from core.search.engines.approximate import Approximate, library
from core.search.engines.entry import EffortPoint, IndexEntry
from core.search.engines.writing import sampled

RECALL_GOAL = 0.95
"""Share of the ten nearest that a search has to find, of queries the training never saw."""

FLAT_UP_TO = 25_000
"""Most vectors that are best compared with one by one: 3 ms a query on one core."""

INDEX_BYTES = 1 << 30
"""What an index may weigh unless another number is given; all of it is soon in memory."""

LEAST_MEASURED = 1_000
"""Vectors below which recall is not measured: too few clusters for it to say anything."""

_DEPTH = 10
_TRAINING_SEED = 1234
_HELD_OUT = 1_000
_VECTORS_A_CLUSTER = 64
_LEAST_CODEBOOK_SAMPLE = 65_536
_HNSW_EFFORTS = (16, 1024)


def kinds_for(size: int, dim: int, index_bytes: int = INDEX_BYTES) -> tuple[IndexKind, ...]:
    """Return the kinds of index that ``size`` vectors should have, the best first.

    Args:
        size: Number of vectors.
        dim: Their length.
        index_bytes: What an index may weigh.
    """
    if size <= FLAT_UP_TO:
        return INDEX_PAIR
    if 4 * size * dim <= index_bytes:
        return ("ivf",)
    return ("ivfsq8",) if size * dim <= index_bytes else ("ivfpq",)


def trained_index(kind: IndexKind, vectors: np.ndarray, sample: np.ndarray) -> Approximate:
    """Train an index for vectors, and leave it empty.

    Args:
        kind: Any but ``flat``.
        vectors: What it is for: float32 (n, dim), rows of unit norm.
        sample: What it is trained with: some of them.
    """
    dim = vectors.shape[1]
    approximate = Approximate.untrained(kind, dim, len(vectors))
    if kind == "hnsw":
        return approximate
    approximate.raw.cp.seed = _TRAINING_SEED
    # An empty gallery has nothing to train on, yet an untrained index cannot be searched.
    given = sample if len(sample) else np.eye(1, dim, dtype=np.float32)
    if kind == "ivfpq" and len(given) < 256:  # fewer than a codebook has entries
        given = np.resize(given, (256, dim))
    approximate.raw.train(given)
    return approximate


def trained_for_gallery(
    kind: IndexKind, vectors: np.ndarray, *, asked_by_texts: bool, folder: Path
) -> tuple[Approximate, IndexEntry]:
    """Train an index for a gallery's vectors, and leave it empty.

    Args:
        kind: Any but ``flat``.
        vectors: float32 (n, dim), rows of unit norm, in memory or mapped.
        asked_by_texts: Whether texts measure it; else vectors do, which are held out.
        folder: On its disk a sample lies while it is trained with.

    Returns:
        The index, and what the manifest says of it before it is measured.

    Raises:
        OSError: The sample could not be written.
    """
    approximate = Approximate.untrained(kind, vectors.shape[1], len(vectors))
    wanted = _VECTORS_A_CLUSTER * (approximate.nlist or 0)
    if kind == "ivfpq":
        wanted = max(wanted, _LEAST_CODEBOOK_SAMPLE)
    held_out = 0 if asked_by_texts else _held_out(len(vectors))
    sample = np.sort(_shuffled(len(vectors))[held_out : held_out + wanted])
    whole = len(sample) in (0, len(vectors))  # hnsw is not trained
    given = vectors if whole else sampled(vectors, sample, folder)
    return trained_index(kind, vectors, given), IndexEntry(
        kind=kind,
        nlist=approximate.nlist,
        trained_on=len(sample),
        query_origin="texts" if asked_by_texts else "vectors",
    )


def measured(
    entry: IndexEntry,
    approximate: Approximate,
    vectors: np.ndarray,
    texts: Sequence[np.ndarray] = (),
) -> IndexEntry:
    """Find how much effort the searches of a gallery's index need.

    Args:
        entry: What is said of it.
        approximate: The index, filled.
        vectors: What is in it: float32 (n, dim), rows of unit norm, in memory or mapped.
        texts: Sorts of queries as visitors ask them: each float32 (q, dim), unit norm. Enough is
            found of each of them. Without, the vectors ask that the training held out.

    Returns:
        The entry with what was found; as it was for fewer than :data:`LEAST_MEASURED` vectors.
    """
    if len(vectors) < LEAST_MEASURED:
        return entry
    own = None if texts else np.sort(_shuffled(len(vectors))[: _held_out(len(vectors))])
    curve = _Curve(approximate, vectors, texts if own is None else [vectors[own]], own)
    chosen = curve.least_effort()
    return entry.model_copy(
        update={
            "effort": chosen.effort,
            "recall": chosen.recall,
            "queries": len(curve.queries),
            "query_origin": "texts" if texts else "vectors",
            "curve": tuple(sorted(curve.points.values(), key=lambda point: point.effort)),
        }
    )


def _shuffled(size: int) -> np.ndarray:
    """Return the rows of a gallery's vectors in an order that is always the same."""
    return np.random.default_rng(_TRAINING_SEED).permutation(size)


def _held_out(size: int) -> int:
    """Return how many vectors, the first of that order, ask and are not trained with."""
    return min(_HELD_OUT, size // 10) if size >= LEAST_MEASURED else 0


class _Curve:
    """Recall of one index at some efforts, against the exact answers."""

    def __init__(
        self,
        approximate: Approximate,
        vectors: np.ndarray,
        sorts: Sequence[np.ndarray],
        own: np.ndarray | None,
    ) -> None:
        self._approximate = approximate
        self._vectors = vectors
        self.queries = queries = np.concatenate(sorts)
        self._ends = np.cumsum([len(sort) for sort in sorts])[:-1]
        # A query that is one of the vectors is no answer to itself.
        self._own = np.full(len(queries), -1) if own is None else own
        _, rows = library().knn(queries, vectors, _DEPTH + 1, library().METRIC_INNER_PRODUCT)
        self._needed = self._scores(rows)[:, _DEPTH - 1 : _DEPTH]
        self.points: dict[int, EffortPoint] = {}
        self._certain: dict[int, bool] = {}

    def least_effort(self) -> EffortPoint:
        """Double the effort until enough is found for certain, then halve the last step."""
        hnsw = self._approximate.kind == "hnsw"
        effort, most = _HNSW_EFFORTS if hnsw else (1, self._approximate.most_effort)
        low = effort
        while not self._enough(effort) and effort < most:
            low, effort = effort, min(2 * effort, most)
        high = effort
        while high - low > max(1, low // 8):
            middle = (low + high) // 2
            low, high = (low, middle) if self._enough(middle) else (middle, high)
        return self.points[high]

    def _enough(self, effort: int) -> bool:
        if effort not in self.points:
            self._measure(effort)
        return self._certain[effort]

    def _measure(self, effort: int) -> None:
        counted = _Compared(self._approximate.kind)
        count = min(len(self._vectors), _DEPTH + 17 + self._approximate.spares(_DEPTH))
        _, rows = self._approximate.search(self.queries, count, effort)
        compared = counted.share(len(self.queries) * len(self._vectors))
        found = self._scores(rows)[:, :_DEPTH] >= self._needed - 1e-5
        sorts = np.split(found.mean(axis=1), self._ends)
        recall = min(float(shares.mean()) for shares in sorts)
        self.points[effort] = EffortPoint(
            effort=effort, recall=round(recall, 4), compared=round(compared, 6)
        )
        # Two standard errors on the safe side: the visitors' queries are others than these.
        self._certain[effort] = all(
            float(shares.mean()) - 2 * float(shares.std()) / len(shares) ** 0.5 >= RECALL_GOAL
            for shares in sorts
        )

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the true scores of rows, best first: float32 (q, rows)."""
        scores = np.empty(rows.shape, np.float32)
        for at, (query, found) in enumerate(zip(self.queries, rows, strict=True)):
            scores[at] = self._vectors[found] @ query
        scores[(rows < 0) | (rows == self._own[:, None])] = -np.inf
        return -np.sort(-scores, axis=1)


class _Compared:
    """How many vectors FAISS compares a query with, by its own count."""

    def __init__(self, kind: IndexKind) -> None:
        counts = library().cvar
        self._counts = counts.hnsw_stats if kind == "hnsw" else counts.indexIVF_stats
        self._before = self._counts.ndis

    def share(self, possible: int) -> float:
        return float(self._counts.ndis - self._before) / possible
