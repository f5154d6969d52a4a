"""Flat against IVF: what is found, how fast, in how many bytes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.evaluation import IndexCurve, IndexPoint
from core.index import Index
from core.records import IndexKind

RECALL_DEPTH = 10


def measure(
    flat: Index, ivf: Index, queries: np.ndarray, bytes_of: Mapping[IndexKind, int]
) -> IndexCurve:
    """Search both indexes one query at a time, IVF at nprobe 1, 2, 4 ... nlist.

    Args:
        flat: The exact index; what it finds counts as found.
        ivf: Over the same vectors.
        queries: float32 (q, dim), unit norm.
        bytes_of: Size of each index's file, by kind.

    Returns:
        Latencies are of the search alone, on the threads that FAISS takes for one query.
    """
    nlist = ivf.nlist or 1
    exact, milliseconds = _searched(flat, queries, None)
    points = [_point("flat", None, exact, exact, milliseconds, bytes_of["flat"] / flat.size)]
    for nprobe in nprobes(nlist):
        found, milliseconds = _searched(ivf, queries, nprobe)
        size = bytes_of["ivf"] / ivf.size
        points.append(_point("ivf", nprobe, exact, found, milliseconds, size))
    return IndexCurve(
        vectors=flat.size, dim=flat.dim, nlist=nlist, queries=len(queries), points=tuple(points)
    )


def nprobes(nlist: int) -> list[int]:
    """Return 1, 2, 4 ... up to nlist, and nlist itself, where IVF equals flat."""
    powers = [2**power for power in range(nlist.bit_length()) if 2**power < nlist]
    return [*powers, nlist]


def measure_synthetic(vectors: int, dim: int, *, seed: int, queries: int = 200) -> IndexCurve:
    """Measure on clustered random vectors: a size that the gallery does not have.

    The vectors are drawn around random centres, and queries near random vectors, so that there
    are clusters to find, as in real embeddings; recall on real ones may differ.
    """
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(1, vectors // 50), dim), dtype=np.float32)
    noise = generator.standard_normal((vectors, dim), dtype=np.float32)
    embeddings = _unit(centres[generator.integers(len(centres), size=vectors)] + noise)
    near = generator.standard_normal((queries, dim), dtype=np.float32) / np.sqrt(dim)
    asked = _unit(embeddings[generator.integers(vectors, size=queries)] + near)
    ids = [str(row) for row in range(vectors)]
    flat, ivf = Index.build(embeddings, ids, "flat"), Index.build(embeddings, ids, "ivf")
    with tempfile.TemporaryDirectory() as folder:
        sizes: dict[IndexKind, int] = {}
        for index in (flat, ivf):
            path = Path(folder) / index.kind
            index.save(path)
            sizes[index.kind] = path.stat().st_size
    return measure(flat, ivf, asked, sizes)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _searched(
    index: Index, queries: np.ndarray, nprobe: int | None
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
