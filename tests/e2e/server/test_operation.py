"""What an operator sees of a running app, and link previews: real servers."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from core.config import Settings
from core.ui.operation.front_door import REQUEST_LOG
from core.ui.operation.health import Health
from tests.e2e.raw_requests import until
from tests.planted_app import launched, planted_shelf

RUN = "/gradio_api/run/compare"


@contextmanager
def app(shelf, *, health=None, **settings) -> Iterator[httpx.Client]:
    with (
        launched(shelf, settings=Settings(**settings), health=health) as page,
        httpx.Client(base_url=page.local_url, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def lines() -> Iterator[list[str]]:
    """Lines of the log of requests."""
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())
    log = logging.getLogger(REQUEST_LOG)
    log.addHandler(handler)
    yield written
    log.removeHandler(handler)


@pytest.fixture(scope="module")
def operated(shelf, lines) -> Iterator[httpx.Client]:
    """An app with metrics, and a log that holds queries."""
    with app(shelf, metrics=True, log_requests=True, log_queries=True) as client:
        yield client


def logged(lines: list[str], count: int) -> list[dict]:
    """The first lines of the log: a line is written just after its answer was sent."""
    assert until(lambda: len(lines) >= count)
    return [json.loads(line) for line in lines[:count]]


class TestHealth:
    def test_an_app_that_can_answer_says_with_what(self, operated):
        reply = operated.get("/health")
        said = reply.json()
        assert (reply.status_code, said["status"], said["reasons"]) == (200, "ready", [])
        galleries = {gallery["name"]: gallery for gallery in said["galleries"]}
        assert list(galleries) == ["planted", "three", "gone"]
        assert galleries["planted"]["open"] and galleries["planted"]["on_disk"]
        assert galleries["gone"]["trouble"] == "gone cannot be opened: its folder is not there."
        assert set(said["models"]) == {"captions", "clip"}
        assert str(operated.base_url) not in reply.text and "/" not in said["galleries"][0]["name"]

    def test_no_gallery_and_a_model_that_does_not_load_are_named(self, tmp_path):
        empty = planted_shelf(tmp_path, [])
        with app(empty) as client:
            reply = client.get("/health")
        assert reply.status_code == 503
        assert reply.json()["reasons"] == ["No gallery is served."]

    def test_it_is_not_ready_while_models_load_nor_after_they_failed(self, tmp_path):
        shelf = planted_shelf(tmp_path)
        health = Health(shelf)
        seen = []

        def failing() -> None:
            seen.append(health.report()["status"])
            raise RuntimeError("a secret")

        shelf.warm_up, models = failing, shelf.entries[0].service.models
        models.loaded = lambda: {"captions": True, "clip": False}
        with pytest.raises(RuntimeError):
            health.warm_up()
        said = health.report()
        assert (seen, said["status"]) == (["starting"], "failing")
        assert "request id" in said["reasons"][0] and "secret" not in said["reasons"][0]


class TestLog:
    def test_each_request_is_a_line_and_the_answer_names_it(self, operated, lines):
        del lines[:]
        reply = operated.post(RUN, json={"data": ["a dog", 3]})
        (line,) = logged(lines, 1)
        assert line["request"] == reply.headers["x-request-id"]
        assert (line["route"], line["method"], line["status"]) == ("call:compare", "POST", 200)
        assert line["query"] == "a dog" and line["ms"] > 0
        assert line["sent"] == len(reply.content) and line["received"] > 10

    def test_words_paths_and_addresses_stay_out(self, shelf, lines):
        with app(shelf, log_requests=True) as client:
            del lines[:]
            client.post(RUN, json={"data": ["a private matter", 3]})
            client.get("/uploads/a-secret-token/captions.csv?q=private")
            client.get("/made-up-by-a-stranger")
        assert [line["route"] for line in logged(lines, 3)] == [
            "call:compare",
            "upload_file",
            "other",
        ]
        assert not re.search("private|secret|made-up|127.0.0.1", "".join(lines))

    def test_a_fault_is_logged_under_the_id_that_the_visitor_sees(self, operated, lines, caplog):
        del lines[:]
        reply = operated.post("/gradio_api/run/search_captions", json={"data": ["kaboom"]})
        request = logged(lines, 1)[0]["request"]
        assert request in reply.text
        assert f"request {request} failed" in caplog.text


def test_metrics_count_requests_searches_and_bytes(operated):
    before = _metrics(operated)
    operated.post(RUN, json={"data": ["a dog", 3]})
    operated.get("/made-up/1")
    operated.get("/made-up/2")
    after = _metrics(operated)

    def more(name):
        return after[name] - before.get(name, 0)

    assert more('twolens_requests_total{method="POST",route="call:compare",status="200"}') == 1
    assert more('twolens_requests_total{method="GET",route="other",status="404"}') == 2
    assert more('twolens_request_seconds_count{route="call:compare"}') == 1
    assert more('twolens_searches_total{lens="captions"}') == 1
    assert more('twolens_searches_total{lens="clip"}') == 1
    assert (after["twolens_ready"], after["twolens_queue"]) == (1, 0)
    assert not any("made-up" in name for name in after)


def _metrics(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_metrics_are_not_there_unless_asked_for(address):
    assert httpx.get(f"{address}/metrics").status_code == 404


def test_who_comes_too_often_is_told_when_to_come_again(shelf):
    ask = {"data": ["a dog", 3]}
    with app(shelf, requests_per_minute=3, trust_proxy=True) as client:
        replies = [client.post(RUN, json=ask) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert 1 <= int(replies[-1].headers["retry-after"]) <= 20
        assert "3 requests a minute" in replies[-1].json()["error"]
        assert client.get("/health").status_code == 200
        elsewhere = {"x-forwarded-for": "9.9.9.9, 8.8.4.4"}
        assert client.post(RUN, json=ask, headers=elsewhere).status_code == 200


def test_a_visitor_cannot_give_another_address_where_no_proxy_is_trusted(shelf):
    with app(shelf, requests_per_minute=2, trust_proxy=False) as client:
        replies = [
            client.post(RUN, json={"data": ["a dog"]}, headers={"x-forwarded-for": f"8.8.4.{n}"})
            for n in range(3)
        ]
    assert [reply.status_code for reply in replies] == [200, 200, 429]


class TestStrangers:
    def test_a_links_preview_is_our_own(self, operated):
        page = operated.get("/", headers={"x-forwarded-host": 'example.org"><script>'}).text
        head = page.partition("<script>")[0]
        assert "Click to try out" not in page and "raw.githubusercontent" not in page
        assert head.count("og:title") == 1 and 'og:title" content="TwoLens' in head
        page = operated.get("/").text
        address = re.search('og:image" content="([^"]+)"', page)[1]
        assert address == f"{operated.base_url}/preview.png".replace("//preview", "/preview")
        picture = Image.open(io.BytesIO(operated.get(address).content))
        assert picture.size == (1200, 630) and len(picture.getcolors(1 << 20)) > 10

    def test_crawlers_may_read_the_page_and_nothing_that_costs(self, operated):
        from urllib.robotparser import RobotFileParser

        robots = RobotFileParser()
        robots.parse(operated.get("/robots.txt").text.splitlines())
        for path in (RUN, "/gradio_api/info", "/thumbnails/planted/0.webp", "/uploads/a/b"):
            assert not robots.can_fetch("*", path)
        assert robots.can_fetch("*", "/preview.png")
