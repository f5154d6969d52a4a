"""A query is embedded once, whoever asks again, from any thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.gallery.reader import Gallery
from core.models.profiles import Models
from core.records import INDEX_PAIR, LENSES
from core.search.service import SearchService
from tests.core.search.conftest import QUERIES


def test_a_repeated_query_is_not_encoded_again(service):
    first, second = service.compare("a dog"), service.compare(" a dog")
    assert (first.captions.cached, first.clip.cached) == (False, False)
    assert (second.captions.cached, second.clip.cached) == (True, True)
    assert service.models.sentence.encoded == service.models.clip.encoded == ["a dog"]
    assert second.captions.hits == first.captions.hits
    assert not service.by_text("two dogs").cached


def test_the_query_cache_is_bounded(planted_original, gallery, sentence, clip):
    models = Models(planted_original.profile, query_cache_size=2, sentence=sentence, clip=clip)
    service = SearchService(gallery, models)
    for query in ("a dog", "two dogs", "a dog", "🐕", "a dog", "two dogs"):
        service.by_text(query)
    assert sentence.encoded == ["a dog", "two dogs", "🐕", "two dogs"]
    uncached = Models(planted_original.profile, query_cache_size=0, sentence=sentence, clip=clip)
    assert [uncached.encode_query("captions", "a dog").cached for _ in range(2)] == [False, False]


def test_a_cached_embedding_cannot_be_changed(service, sentence):
    embedding = service.models.embed_query("captions", "a dog")
    with pytest.raises(ValueError, match="read-only"):
        embedding[0] = 1
    assert np.array_equal(service.models.embed_query("captions", "a dog"), embedding)


def test_threads_are_told_truly_whether_their_query_was_cached(service, sentence):
    """Several threads may encode the same new query at once, but none that did says it did not."""
    barrier = threading.Barrier(8)

    def ask(_):
        barrier.wait()
        return service.models.encode_query("captions", "a dog").cached

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert answers.count(False) == len(sentence.encoded) >= 1


def test_searches_from_many_threads_agree_with_one(service):
    jobs = [(q, lens, kind) for q in QUERIES for lens in LENSES for kind in INDEX_PAIR] * 3
    alone = [service.by_text(q, 9, lens, kind).hits for q, lens, kind in jobs]
    fresh = SearchService(
        Gallery.open(service.gallery.folder, service.models.profile), service.models
    )
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: fresh.by_text(job[0], 9, job[1], job[2]).hits, jobs))
    assert together == alone
