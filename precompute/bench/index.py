"""Flat against IVF at a size that no gallery at hand has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.bench.figures import Figure, Say, result

if TYPE_CHECKING:
    from core.config import ProfileName
    from core.records import Lens

_SEED = 0


def index(
    gallery: Path, lens: Lens, vectors: int, count: int, name: ProfileName, say: Say
) -> dict[str, Any]:
    """Enlarge a gallery's embeddings, index them both ways, and time searches by its own pictures.

    Args:
        gallery: Whose embeddings lie between the vectors that are made.
        lens: Which of its embeddings.
        vectors: How many to make.
        count: Queries: embeddings of the gallery's own.
        name: Of the profile that built it.
        say: Receives messages on progress.

    Raises:
        GalleryError: The gallery cannot be served.
    """
    import numpy as np

    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES
    from precompute.evaluate.index_curve import measure_enlarged

    rows = Gallery.open(gallery, PROFILES[name]).embeddings(lens)
    asked = rows[np.random.default_rng(_SEED).permutation(len(rows))[:count]]
    say(f"{vectors:,} vectors of {rows.shape[1]} ...")
    started = time.perf_counter()
    curve = measure_enlarged(rows, asked, vectors, seed=_SEED)
    figures = [Figure("index: all", time.perf_counter() - started, "s", 1)]
    for point in curve.points:
        kind = point.kind if point.nprobe is None else f"ivf, nprobe {point.nprobe}"
        figures += [
            Figure(f"{kind}: search p50", point.p50_ms, "ms", curve.queries),
            Figure(f"{kind}: search p95", point.p95_ms, "ms", curve.queries),
            Figure(f"{kind}: recall@10 of flat", point.recall, "", curve.queries),
            Figure(f"{kind}: a vector", point.bytes_per_vector, "bytes", 1),
        ]
    return result(figures, name, vectors=curve.vectors, clusters=curve.nlist)
