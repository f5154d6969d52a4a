"""Which index a gallery gets, its training, and the least effort that finds enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.records import INDEX_PAIR, IndexKind
from core.search.engines.approximate import Approximate, library
from core.search.engines.entry import EffortPoint, IndexEntry

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
_CHUNK = 65_536
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


def add_all(approximate: Approximate, vectors: np.ndarray) -> None:
    """Add vectors some at a time, so that mapped ones need not be in memory at once."""
    for start in range(0, len(vectors), _CHUNK):
        approximate.raw.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))


def build_for_gallery(
    kind: IndexKind,
    vectors: np.ndarray,
    texts: np.ndarray | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Approximate | None, IndexEntry]:
    """Build an index and find how much effort its searches need.

    Args:
        kind: Of the index.
        vectors: float32 (n, dim), rows of unit norm, in memory or mapped.
        texts: Queries as visitors ask them: float32 (q, dim), unit norm; None holds out vectors.
        say: Receives messages on progress.

    Returns:
        The index, None for ``flat``, and what the manifest says of it. Fewer than a thousand
        vectors are not measured.
    """
    if kind == "flat":
        return None, IndexEntry(kind=kind, recall=1.0)
    shuffled = np.random.default_rng(_TRAINING_SEED).permutation(len(vectors))
    measured = len(vectors) >= LEAST_MEASURED
    held_out = min(_HELD_OUT, len(vectors) // 10) if measured and texts is None else 0
    approximate = Approximate.untrained(kind, vectors.shape[1], len(vectors))
    wanted = _VECTORS_A_CLUSTER * (approximate.nlist or 1)
    if kind == "ivfpq":
        wanted = max(wanted, _LEAST_CODEBOOK_SAMPLE)
    sample = np.sort(shuffled[held_out : held_out + wanted])
    if len(sample) < len(vectors):
        approximate = trained_index(kind, vectors, vectors[sample])
    else:
        approximate = trained_index(kind, vectors, vectors)
    say(f"{kind}: trained with {len(sample):,} vectors, adding {len(vectors):,} ...")
    add_all(approximate, vectors)
    entry = IndexEntry(
        kind=kind,
        nlist=approximate.nlist,
        trained_on=0 if kind == "hnsw" else len(sample),
        query_origin="vectors" if texts is None else "texts",
    )
    if not measured:
        return approximate, entry
    say(f"{kind}: searching at rising effort ...")
    own = np.sort(shuffled[:held_out]) if held_out else None
    queries = vectors[own] if own is not None else texts
    curve = _Curve(approximate, vectors, np.ascontiguousarray(queries), own)
    chosen = curve.least_effort()
    approximate.effort = chosen.effort
    return approximate, entry.model_copy(
        update={
            "effort": chosen.effort,
            "recall": chosen.recall,
            "queries": len(curve.queries),
            "curve": tuple(sorted(curve.points.values(), key=lambda point: point.effort)),
        }
    )


class _Curve:
    """Recall of one index at some efforts, against the exact answers."""

    def __init__(
        self,
        approximate: Approximate,
        vectors: np.ndarray,
        queries: np.ndarray,
        own: np.ndarray | None,
    ) -> None:
        self._approximate = approximate
        self._vectors = vectors
        self.queries = queries
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
        shares = found.mean(axis=1)
        recall = float(shares.mean())
        self.points[effort] = EffortPoint(
            effort=effort, recall=round(recall, 4), compared=round(compared, 6)
        )
        # Two standard errors on the safe side: the visitors' queries are others than these.
        doubt = 2 * float(shares.std()) / len(shares) ** 0.5
        self._certain[effort] = recall - doubt >= RECALL_GOAL

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
