"""Every backend gives the answers of FAISS's exact index: ids, scores, order, ties, filters."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.errors import EmbeddingError, IndexUnavailableError, QueryError
from core.search.engines.milvus import MilvusIndex, MilvusPlace
from core.search.index import Index
from tests.core.planted import brute_force, image_ids, unit_rows
from tests.milvus_server import LiteServer, MilvusServer

SIZE, DIM = 300, 16
LICENCES = ("CC BY 4.0", 'with "quotes" and \\', None)


class FaissStore:
    """FAISS's index is never changed: adding and deleting makes another."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[np.ndarray, str, str | None]] = {}

    def create(self, size):
        self._kept = {}

    def add(self, rows, vectors, ids, licences):
        entries = zip(vectors, ids, licences, strict=True)
        self._kept |= dict(zip(rows, entries, strict=True))

    def finish(self):
        pass

    def delete(self, rows):
        for row in rows:
            del self._kept[row]

    def search(self, queries, k, *, among=None, licence=None, nprobe=None):
        rows = sorted(self._kept)
        vectors = np.array([self._kept[row][0] for row in rows], np.float32).reshape(-1, DIM)
        allowed = np.array([among is None or bool(among[row]) for row in rows], dtype=bool)
        if licence is not None:
            allowed &= np.array([self._kept[row][2] == licence for row in rows], dtype=bool)
        index = Index.build(vectors, [self._kept[row][1] for row in rows], "flat")
        return index.search(queries, k, among=allowed, nprobe=nprobe)

    @property
    def size(self):
        return len(self._kept)


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory):
    server = MilvusServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def milvus_uri(request):
    """The server that TWOLENS_TEST_MILVUS names, or one of the package ``milvus``."""
    if uri := os.environ.get("TWOLENS_TEST_MILVUS"):
        return uri
    server = request.getfixturevalue("milvus_server")
    server.start()
    return server.uri


@pytest.fixture(scope="module", params=["faiss", "milvus-lite", "milvus-server"])
def store(request, tmp_path_factory):
    if request.param == "faiss":
        yield FaissStore()
        return
    if request.param == "milvus-lite":
        pytest.importorskip("milvus_lite", reason="requirements-milvus.txt is not installed")
        place = MilvusPlace(str(tmp_path_factory.mktemp("milvus") / "vectors.db"))
    else:
        place = MilvusPlace(request.getfixturevalue("milvus_uri"), timeout_s=30)
    index = MilvusIndex(place, "contract", DIM)
    yield index
    index.close()


@pytest.fixture
def filled(store):
    """A store of vectors of which ten come five times each."""
    vectors = np.concatenate([unit_rows(SIZE - 40, DIM), np.tile(unit_rows(10, DIM), (4, 1))])
    licences = [LICENCES[row % 3] for row in range(SIZE)]
    store.create(SIZE)
    store.add(range(SIZE), vectors, image_ids(SIZE), licences)
    return store, vectors


def pairs(hits):
    return [(hit.id, pytest.approx(hit.score, abs=1e-6)) for hit in hits]


def test_the_answers_are_those_of_an_exact_index(filled):
    store, vectors = filled
    ids, exact = image_ids(SIZE), Index.build(vectors, image_ids(SIZE), "flat")
    assert store.size == SIZE
    queries = np.concatenate([unit_rows(4, DIM, seed=1), vectors[:4]])
    for k in (1, 3, 5, 50, SIZE + 100):
        found = store.search(queries, k)
        assert found == exact.search(queries, k)  # the very scores, and ties in row order
        assert pairs(found[0]) == brute_force(vectors, ids, queries[0], k)
    with pytest.raises(QueryError, match="k must be 1 or more; got 0"):
        store.search(queries, 0)
    with pytest.raises(EmbeddingError, match="length 16 are needed"):
        store.search(unit_rows(1, 8), 1)


def test_a_tie_wider_than_the_spare_candidates_is_in_row_order(store):
    """A hundred equal vectors, the last row added first: the cut at k is among them."""
    vectors, ids = unit_rows(SIZE, DIM), image_ids(SIZE)
    tied = np.sort(np.random.default_rng(4).permutation(SIZE)[:100])
    vectors[tied] = vectors[tied[0]]
    backwards = list(range(SIZE))[::-1]
    store.create(SIZE)
    store.add(backwards, vectors[backwards], ids[::-1], [None] * SIZE)
    for k in (1, 3, 20, 100, 110):
        (found,) = store.search(vectors[tied[:1]], k)
        assert [hit.id for hit in found[:100]] == [ids[row] for row in tied[:k]]
        assert len(found) == k and len({hit.score for hit in found[:100]}) == 1


def test_filters_leave_the_ranking_of_what_they_allow(filled, monkeypatch):
    store, vectors = filled
    exact, query = Index.build(vectors, image_ids(SIZE), "flat"), unit_rows(1, DIM, seed=2)
    for licence in LICENCES[:2]:
        allowed = np.array([LICENCES[row % 3] == licence for row in range(SIZE)])
        assert store.search(query, 30, licence=licence) == exact.search(query, 30, among=allowed)
    far = np.zeros(SIZE, bool)
    far[np.argsort(vectors @ query[0])[:20]] = True
    for most_named in (1000, 5):  # by name, and by passing over what is not allowed
        monkeypatch.setattr("core.search.engines.milvus.MOST_NAMED_ROWS", most_named)
        assert store.search(query, 7, among=far) == exact.search(query, 7, among=far)
    assert store.search(query, 5, among=np.zeros(SIZE, bool)) == [[]]
    assert store.search(query, 5, licence='x" or row >= 0 or "') == [[]]


def test_what_is_added_is_found_and_what_is_deleted_is_not(filled):
    store, vectors = filled
    query = unit_rows(1, DIM, seed=9)
    store.add([SIZE], query, ["new"], [None])
    assert [hit.id for hit in store.search(query, 1)[0]] == ["new"]
    store.add([SIZE], -query, ["new"], [None])  # in the place of the one before
    assert store.search(query, 1)[0][0].id != "new"
    assert store.size == SIZE + 1
    best = store.search(vectors[:1], 1)[0][0]
    store.delete([0, SIZE])
    assert store.size == SIZE - 1
    again = store.search(vectors[:1], 1)[0][0]
    assert (best.id, again.id) == (image_ids(1)[0], image_ids(SIZE)[SIZE - 40])


def test_what_is_found_by_codes_is_scored_by_the_vectors_themselves(store, monkeypatch):
    """A server compares more than 25,000 vectors by codes of 8 bits; it needs only be told so."""
    monkeypatch.setattr("core.search.engines.milvus.FLAT_UP_TO", 100)
    vectors, ids = unit_rows(SIZE, DIM), image_ids(SIZE)
    store.create(SIZE)
    store.add(range(SIZE), vectors, ids, [None] * SIZE)
    store.finish()
    assert store.size == SIZE
    queries = unit_rows(8, DIM, seed=5)
    assert store.search(queries, 10, nprobe=SIZE) == Index.build(vectors, ids, "flat").search(
        queries, 10
    )


def test_many_at_once_get_the_answers_of_one_at_a_time(filled):
    store, _ = filled
    queries = unit_rows(24, DIM, seed=3)
    alone = [store.search(query[None], 5) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: store.search(query[None], 5), queries)) == alone


@pytest.fixture(params=["milvus-lite", "milvus-server"])
def server(request, tmp_path):
    """A server that does not run yet."""
    if request.param == "milvus-lite":
        server = LiteServer(tmp_path / "milvus")
    else:
        server = request.getfixturevalue("milvus_server")
    server.kill()
    yield server
    server.kill()


def answers(ask):
    """Ask until it answers, two minutes at most."""
    until = time.monotonic() + 120
    while True:
        try:
            return ask()
        except IndexUnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_a_server_that_goes_away_is_said_so_and_found_again(server):
    place = MilvusPlace(server.uri, timeout_s=2)
    vectors, ids, query = unit_rows(20, DIM), image_ids(20), unit_rows(1, DIM, seed=1)
    index = MilvusIndex(place, "coming_and_going", DIM)
    with pytest.raises(IndexUnavailableError, match="does not answer; try again in a moment"):
        index.search(query, 5)
    server.start()
    answers(lambda: index.create(20))
    index.add(range(20), vectors, ids, [None] * 20)
    expected = Index.build(vectors, ids, "flat").search(query, 5)
    assert index.search(query, 5) == expected
    server.kill()
    started = time.monotonic()
    with pytest.raises(IndexUnavailableError) as caught:
        index.search(query, 5)
    assert time.monotonic() - started < 5 and str(place.uri) not in str(caught.value)
    server.start()
    assert answers(lambda: index.search(query, 5)) == expected
