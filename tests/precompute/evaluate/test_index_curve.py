"""The index curve, checked against searches done by hand."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from core.search.index import Index
from precompute.evaluate.index_curve import measure, measure_enlarged, nprobes
from tests.core.planted import image_ids, unit_rows


def test_nprobe_doubles_up_to_the_number_of_clusters():
    assert nprobes(1) == [1]
    assert nprobes(2) == [1, 2]
    assert nprobes(25) == [1, 2, 4, 8, 16, 25]
    assert nprobes(32) == [1, 2, 4, 8, 16, 32]


def test_recall_is_what_ivf_keeps_of_flat_and_all_clusters_keep_all():
    vectors, ids = unit_rows(600, 16), image_ids(600)
    flat, ivf = Index.build(vectors, ids, "flat"), Index.build(vectors, ids, "ivf")
    queries = unit_rows(40, 16, seed=1)
    threads = faiss.omp_get_max_threads()
    curve = measure(flat, ivf, 600, queries, {"flat": 600 * 64 + 45, "ivf": 60_000})
    assert faiss.omp_get_max_threads() == threads
    assert (curve.vectors, curve.dim, curve.nlist, curve.queries) == (600, 16, ivf.nlist, 40)
    first, *probed = curve.points
    assert (first.kind, first.nprobe, first.recall) == ("flat", None, 1.0)
    assert first.bytes_per_vector == pytest.approx(64.1)
    assert [point.nprobe for point in probed] == nprobes(ivf.nlist)
    for point in probed:
        kept = [
            len({hit.id for hit in one} & {hit.id for hit in other}) / 10
            for one, other in zip(
                flat.search(queries, 10), ivf.search(queries, 10, nprobe=point.nprobe), strict=True
            )
        ]
        assert point.recall == pytest.approx(np.mean(kept))
        assert 0 < point.p50_ms <= point.p95_ms
    assert probed[0].recall < probed[-1].recall == 1.0


def test_enlarged_vectors_are_many_unlike_and_near_the_real_ones():
    embeddings, queries = unit_rows(50, 32), unit_rows(5, 32, seed=2)
    curve = measure_enlarged(embeddings, queries, 2000, seed=3)
    assert (curve.vectors, curve.dim) == (2000, 32)
    assert curve.nlist == 51
    recalls = [point.recall for point in curve.points]
    assert recalls == [
        point.recall for point in measure_enlarged(embeddings, queries, 2000, seed=3).points
    ]
    assert recalls[-1] == 1.0
