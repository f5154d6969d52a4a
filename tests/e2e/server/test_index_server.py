"""A gallery searched on an index server that is killed under the app, and comes back."""

from __future__ import annotations

import time

import httpx
import pytest

from core.config import Settings
from precompute.build.index_command import IndexChoice, reindex
from tests.milvus_server import LiteServer, MilvusServer
from tests.planted_app import (
    PICTURES,
    planted_models,
    planted_profile,
    serving,
    shelf_of,
    write_planted_gallery,
)

AWAY = "The index server does not answer; try again in a moment."


@pytest.fixture(params=[LiteServer, MilvusServer])
def index_server(request, tmp_path):
    server = request.param(tmp_path / "milvus")
    yield server
    server.kill()


def asked(address, name, *values):
    body = {"data": list(values)}
    return httpx.post(f"{address}/gradio_api/run/{name}", json=body, timeout=60)


def ranking(answer, lens):
    return [(hit["id"], hit["score"]) for hit in answer[lens]]


def compared(address, query="a dog on the beach"):
    (found,) = asked(address, "compare", query, 5).json()["data"]
    return found


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_an_app_outlives_its_index_server(index_server, tmp_path, monkeypatch):
    monkeypatch.setattr("core.gallery.index_files.get_settings", Settings)
    profile = planted_profile(tmp_path)
    gallery = write_planted_gallery(tmp_path / "gallery", profile, PICTURES)
    with serving(shelf_of([gallery], profile)) as address:
        expected = compared(address)
    assert expected["failures"] == {}
    monkeypatch.setenv("TWOLENS_MILVUS_URI", index_server.uri)
    monkeypatch.setenv("TWOLENS_MILVUS_TIMEOUT_S", "10")
    index_server.start()
    models = planted_models(profile)
    reindex(gallery, models, IndexChoice.milvus, 1 << 30, lambda _: None)
    with serving(shelf_of([gallery], profile)) as address:
        until(lambda: compared(address)["failures"] == {})
        found = compared(address)
        for lens in ("captions", "clip"):
            assert ranking(found, lens) == ranking(expected, lens)

        index_server.kill()
        away = compared(address)
        assert away["failures"] == {"captions": AWAY, "clip": AWAY}
        refused = asked(address, "search_clip", "a dog", 5)
        assert refused.status_code == 503 and AWAY in refused.text
        (words,) = asked(address, "search_words", "dog", 5).json()["data"]
        assert words["hits"]  # of no server

        index_server.start()
        until(lambda: compared(address)["failures"] == {})
        found = compared(address)
        for lens in ("captions", "clip"):
            assert ranking(found, lens) == ranking(expected, lens)

        client = pytest.importorskip("pymilvus").MilvusClient(index_server.uri)
        (captions,) = (name for name in client.list_collections() if "captions" in name)
        client.drop_collection(captions)
        found = compared(address)
        assert list(found["failures"]) == ["captions"]
        assert "does not hold this index" in found["failures"]["captions"]
        assert ranking(found, "clip") == ranking(expected, "clip")
