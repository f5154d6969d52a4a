"""Flat against IVF: what is found, how fast, in how many bytes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.gallery.figures.metrics_file import IndexCurve, IndexPoint
from core.records import IndexKind
from core.search.engines.protocol import VectorIndex
from core.search.index import Index

RECALL_DEPTH = 10
_BASE_VECTORS = 5000
_NEIGHBOURS = 10
_NOISE = 0.3


def measure(
    flat: VectorIndex,
    ivf: VectorIndex,
    vectors: int,
    queries: np.ndarray,
    bytes_of: Mapping[IndexKind, int],
) -> IndexCurve:
    """Search both indexes one query at a time, IVF at nprobe 1, 2, 4 ... nlist.

    Args:
        flat: The exact index; what it finds counts as found.
        ivf: Over the same vectors.
        vectors: How many both hold.
        queries: float32 (q, dim), unit norm.
        bytes_of: Size of each index's file, by kind.

    Returns:
        Latencies are of the search alone, on one thread: FAISS would spread one search of a large
        flat index over all cores, which a server that answers many visitors does not have.
    """
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        nlist = ivf.nlist or 1
        exact, milliseconds = _searched(flat, queries, None)
        points = [_point("flat", None, exact, exact, milliseconds, bytes_of["flat"] / vectors)]
        for nprobe in nprobes(nlist):
            found, milliseconds = _searched(ivf, queries, nprobe)
            size = bytes_of["ivf"] / vectors
            points.append(_point("ivf", nprobe, exact, found, milliseconds, size))
    finally:
        faiss.omp_set_num_threads(threads)
    return IndexCurve(
        vectors=vectors,
        dim=queries.shape[1],
        nlist=nlist,
        queries=len(queries),
        points=tuple(points),
    )


def nprobes(nlist: int) -> list[int]:
    """Return 1, 2, 4 ... up to nlist, and nlist itself, where IVF equals flat."""
    powers = [2**power for power in range(nlist.bit_length()) if 2**power < nlist]
    return [*powers, nlist]


def measure_enlarged(
    embeddings: np.ndarray, queries: np.ndarray, vectors: int, *, seed: int
) -> IndexCurve:
    """Measure at a size that the gallery does not have, on vectors made from its own.

    Each lies between an embedding and one of its nearest neighbours, with a little noise, so
    that the clusters are those of real embeddings. Recall at that size on real ones may differ.

    Args:
        embeddings: float32 (n, dim), two or more rows of unit norm.
        queries: float32 (q, dim), unit norm.
        vectors: How many to make.
        seed: Of the draws.
    """
    made = enlarged(embeddings, vectors, np.random.default_rng(seed))
    ids = [str(row) for row in range(vectors)]
    flat, ivf = Index.build(made, ids, "flat"), Index.build(made, ids, "ivf")
    with tempfile.TemporaryDirectory() as folder:
        sizes: dict[IndexKind, int] = {}
        for index in (flat, ivf):
            path = Path(folder) / index.kind
            index.save(path)
            sizes[index.kind] = path.stat().st_size
    return measure(flat, ivf, vectors, queries, sizes)


def enlarged(
    embeddings: np.ndarray,
    vectors: int,
    generator: np.random.Generator,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Return vectors made from some embeddings, as :func:`measure_enlarged` says.

    Args:
        embeddings: float32 (n, dim), two or more rows of unit norm.
        vectors: How many to make.
        generator: Of the draws.
        rows: Which embedding each is made from, of a few: int (vectors,); None draws them.
    """
    base = embeddings
    if rows is None:
        base = embeddings[generator.permutation(len(embeddings))[:_BASE_VECTORS]]
    cosines = base @ base.T
    np.fill_diagonal(cosines, -np.inf)
    count = min(_NEIGHBOURS, len(base) - 1)
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    one = generator.integers(len(base), size=vectors) if rows is None else rows
    other = nearest[one, generator.integers(count, size=vectors)]
    share = generator.random((vectors, 1), dtype=np.float32)
    noise = generator.standard_normal((vectors, base.shape[1]), dtype=np.float32)
    between = share * base[one] + (1 - share) * base[other]
    return _unit(between + _NOISE / np.sqrt(base.shape[1], dtype=np.float32) * noise)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _searched(
    index: VectorIndex, queries: np.ndarray, nprobe: int | None
) -> tuple[list[set[str]], list[float]]:
    found, milliseconds = [], []
    index.search(queries[:1], RECALL_DEPTH, nprobe=nprobe)  # the first search maps the file
    for row in range(len(queries)):
        start = time.perf_counter()
        hits = index.search(queries[row : row + 1], RECALL_DEPTH, nprobe=nprobe)[0]
        milliseconds.append(1000 * (time.perf_counter() - start))
        found.append({hit.id for hit in hits})
    return found, milliseconds


def _point(
    kind: str,
    nprobe: int | None,
    exact: Sequence[set[str]],
    found: Sequence[set[str]],
    milliseconds: Sequence[float],
    bytes_per_vector: float,
) -> IndexPoint:
    shares = [len(a & b) / len(a) for a, b in zip(exact, found, strict=True)]
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return IndexPoint.model_validate(
        {
            "kind": kind,
            "nprobe": nprobe,
            "recall": float(np.mean(shares)),
            "p50_ms": round(float(p50), 4),
            "p95_ms": round(float(p95), 4),
            "bytes_per_vector": round(bytes_per_vector, 1),
        }
    )
