"""An IVF file is believed only where every byte fits: whatever else it holds, one sentence."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import pytest

from core.search.engines.approximate import Approximate
from core.search.engines.files import check_index, read_clusters
from core.search.index import Index
from tests.core.planted import image_ids, unit_rows

SIZE, DIM = 500, 16
HEADER = 37  # of the index, and of the centroids within it
CENTROIDS = HEADER + 16 + HEADER + 8


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    Index.build(unit_rows(SIZE, DIM), image_ids(SIZE), "ivf").save(path)
    return path.read_bytes()


def read(content: bytes, size: int = SIZE, dim: int = DIM):
    return read_clusters(np.frombuffer(content, np.uint8), size, dim)


def put(content: bytes, at: int, *values: int, layout: str = "<q") -> bytes:
    packed = b"".join(struct.pack(layout, value) for value in values)
    return content[:at] + packed + content[at + len(packed) :]


def test_it_says_which_vectors_are_nearest_to_which_centroid(content):
    clusters = read(content)
    nearest = (unit_rows(SIZE, DIM) @ clusters.centroids.T).argmax(axis=1)
    assert clusters.centroids.shape == (12, DIM)
    assert np.array_equal(clusters.members, nearest)


def lists_of(content: bytes) -> int:
    """Return where the sizes of the lists begin."""
    return content.index(b"ilar") + 4 + 8 + 8 + 4 + 8


def first_id(content: bytes) -> int:
    """Return where the ids of the first list begin."""
    at = lists_of(content)
    return at + 12 * 8 + 4 * DIM * struct.unpack_from("<q", content, at)[0]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda c: b"", "ends too early"),
        (lambda c: b"not an index at all" * 9, "not an IVF index"),
        (lambda c: c[:-1], "ends too early"),
        (lambda c: c + b"\0", "goes on after its end"),
        (lambda c: put(c, 4, 1 << 30, layout="<i"), "is of 500 vectors of length 1073741824"),
        (lambda c: put(c, 8, 1 << 60), "is of 1152921504606846976 vectors"),
        (lambda c: put(c, HEADER, 0), "has 0 clusters for 500 vectors"),
        (lambda c: put(c, HEADER, (1 << 63) - 1), "has 9223372036854775807 clusters"),
        (lambda c: put(c, CENTROIDS - 8, 1 << 61), "centroids are not as many"),
        (lambda c: put(c, CENTROIDS, 0x7FC00000, layout="<i"), "a centroid is not finite"),
        (lambda c: put(c, CENTROIDS + 4 * 12 * DIM, 2, layout="<B"), "direct map"),
        (lambda c: put(c, c.index(b"ilar") + 4, 13), "lists are not of its clusters"),
        (lambda c: put(c, c.index(b"ilar") + 12, 1 << 40), "lists are not of its clusters"),
        (lambda c: c.replace(b"full", b"sprs"), "not as many|not in order|do not hold"),
        (lambda c: c.replace(b"full", b"mmap"), "stored in a way that is not known"),
        (lambda c: put(c, lists_of(c) - 8, 1 << 60), "lists are not as many"),
        (lambda c: put(c, lists_of(c), -1), "clusters do not hold 500 vectors"),
        (lambda c: put(c, lists_of(c), 1 << 62), "clusters do not hold 500 vectors"),
        (lambda c: put(c, first_id(c), -1), "names a vector outside 0 to 499"),
        (lambda c: put(c, first_id(c), 1 << 40), "names a vector outside 0 to 499"),
        (lambda c: put(c, first_id(c), *struct.unpack_from("<q", c, first_id(c) + 8)), "in two"),
    ],
)
def test_what_faiss_would_trust_is_refused(content, damage, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(damage(content))


def test_an_index_of_other_embeddings_is_refused(content):
    with pytest.raises(ValueError, match="is of 500 vectors of length 16, not 501 of 16"):
        read(content, size=SIZE + 1)
    with pytest.raises(ValueError, match="is of 500 vectors of length 16, not 500 of 8"):
        read(content, dim=8)


def test_random_damage_is_refused_or_leaves_a_true_index(content):
    """A centroid or an unread vector may differ; what is searched is complete all the same."""
    random = Random(0)
    embeddings, ids = unit_rows(SIZE, DIM), image_ids(SIZE)
    (expected,) = Index.build(embeddings, ids, "flat").search(embeddings[:1], 10)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(random.choice((1, 1, 8, 64))):
            damaged[random.randrange(len(content))] ^= random.randrange(1, 256)
        try:
            clusters = read(bytes(damaged[: random.choice((len(content), len(content) - 1))]))
        except ValueError:
            refused += 1
            continue
        (hits,) = Index.restore(clusters, embeddings, ids).search(embeddings[:1], 10, nprobe=12)
        assert hits == expected
    assert refused > 100


KINDS = ["ivf", "ivfsq8", "ivfpq", "hnsw"]


@pytest.fixture(scope="module", params=KINDS)
def large(request, tmp_path_factory):
    """A file of each kind that is mapped, and its path."""
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    Index.build(unit_rows(SIZE, DIM), image_ids(SIZE), request.param).save(path)
    return request.param, path


def check(content: bytes, kind: str, size: int = SIZE, dim: int = DIM) -> None:
    check_index(np.frombuffer(content, np.uint8), kind, size, dim)


def test_a_mapped_index_answers_as_the_one_that_was_saved(large):
    kind, path = large
    embeddings, ids, queries = unit_rows(SIZE, DIM), image_ids(SIZE), unit_rows(8, DIM, seed=1)
    check(path.read_bytes(), kind)
    mapped = Index(embeddings, ids, None, Approximate.mapped(kind, str(path)))
    built = Index.build(embeddings, ids, kind)
    assert mapped.search(queries, 10) == built.search(queries, 10)
    with pytest.raises(ValueError, match="of 500 vectors of length 16, not 501|not as many"):
        check(path.read_bytes(), kind, size=SIZE + 1)
    for other in KINDS:
        if other != kind:
            with pytest.raises(ValueError, match="it is not an IVF index"):
                check(path.read_bytes(), other)


def test_damage_that_passes_the_check_does_not_end_the_process(large, tmp_path):
    """Every number that FAISS takes for a size or a place is checked; the rest it may have."""
    kind, path = large
    content, random = path.read_bytes(), Random(0)
    embeddings, ids, queries = unit_rows(SIZE, DIM), image_ids(SIZE), unit_rows(4, DIM, seed=1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(random.choice((1, 8, 64))):
            # Half of the damage where the sizes are.
            most = random.choice((len(content), 400))
            damaged[random.randrange(most)] ^= random.randrange(1, 256)
        try:
            check(bytes(damaged), kind)
        except ValueError:
            refused += 1
            continue
        changed = tmp_path / "changed.faiss"
        changed.write_bytes(damaged)
        index = Index(embeddings, ids, None, Approximate.mapped(kind, str(changed)))
        assert all(len(hits) <= 10 for hits in index.search(queries, 10))
    assert refused > 20
