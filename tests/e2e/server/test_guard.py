"""What anybody may ask for, against a real server: routes, bodies, sessions."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.ui.sessions import Sessions
from tests.e2e.raw_requests import (
    HTTP,
    RUN,
    SECONDS,
    UPLOAD,
    connect,
    head,
    post,
)
from tests.e2e.upload_visitor import Refused, Visitor
from tests.planted_app import image_id
from tests.tiny_uploads import picture_bytes

OPEN = {
    "/",
    "/assets/{path:path}",
    "/config",
    "/config/",
    "/favicon.ico",
    "/gradio_api/api/{api_name}",
    "/gradio_api/api/{api_name}/",
    "/gradio_api/app_id",
    "/gradio_api/app_id/",
    "/gradio_api/call/v2/{api_name}",
    "/gradio_api/call/v2/{api_name}/",
    "/gradio_api/call/v2/{api_name}/{event_id}",
    "/gradio_api/call/{api_name}",
    "/gradio_api/call/{api_name}/",
    "/gradio_api/call/{api_name}/{event_id}",
    "/gradio_api/cancel",
    "/gradio_api/heartbeat/{session_hash}",
    "/gradio_api/info",
    "/gradio_api/info/",
    "/gradio_api/mcp",
    "/gradio_api/openapi.json",
    "/gradio_api/queue/data",
    "/gradio_api/queue/join",
    "/gradio_api/reset",
    "/gradio_api/reset/",
    "/gradio_api/run/{api_name}",
    "/gradio_api/run/{api_name}/",
    "/gradio_api/startup-events",
    "/gradio_api/theme.css",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
    "/health",
    "/large/{gallery}/{image_id}.webp",
    "/manifest.json",
    "/map/map.{kind}",
    "/map/{gallery}.bin",
    "/map/{gallery}/{image_id}.json",
    "/preview.png",
    "/robots.txt",
    "/static/{path:path}",
    "/svelte/{path:path}",
    "/theme.css",
    "/awaited/{image_id}.webp",
    "/thumbnails/{gallery}/cover.webp",
    "/thumbnails/{gallery}/{image_id}.webp",
    "/uploads/{token}/large/{image_id}.webp",
    "/uploads/{token}/thumbnails/{image_id}.webp",
    "/uploads/{token}/{download}",
}
"""Every route that answers, as its framework writes it; a new one of gradio's is not among them."""
CLOSED = (
    ("GET", "/gradio_api/deep_link?session_hash=s"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/component_server"),
    ("GET", "/gradio_api/proxy=https://x.hf.space/"),
    ("GET", "/gradio_api/file=http://localhost/"),
    ("GET", "/gradio_api/file=https:/localhost/"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("POST", "/gradio_api/stream/x"),
    ("GET", "/gradio_api/custom_component/x/client/y/z"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/runs"),
    ("POST", "/gradio_api/vibe-edit"),
    ("GET", "/gradio_api/mcp/sse"),
    ("POST", "/gradio_api/mcp/messages/"),
    ("POST", "/login"),
    ("GET", "/logout"),
    ("GET", "/monitoring"),
    ("GET", "/pwa_icon"),
    ("GET", "/docs"),
)


def routes_of(app) -> Iterator[Any]:
    """Routes of an app and of the routers within it."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner)
        elif hasattr(route, "path"):
            yield route


@pytest.mark.usefixtures("quiet")
class TestRoutes:
    @pytest.mark.parametrize(("method", "path"), CLOSED)
    def test_what_is_not_used_is_closed(self, guarded, method, path):
        reply = HTTP.request(method, guarded.address + path, follow_redirects=False)
        assert reply.status_code == 404
        assert "nothing at this address" in reply.text

    def test_every_other_route_is_closed(self, guarded):
        answering = set()
        paths = {route.path for route in routes_of(guarded.page.app)}
        assert len(paths) > 60
        for path in paths:
            some = re.sub(r"{[^}]*}", "0", path)
            for method in ("GET", "POST"):
                with HTTP.stream(method, guarded.address + some) as reply:
                    if reply.status_code != 404 or b"nothing at" not in next(reply.iter_raw(), b""):
                        answering.add(path)
        assert answering == OPEN

    def test_no_session_is_written_to_disk(self, guarded):
        Visitor(guarded.address).run("upload_forget")
        before = set(guarded.inbox.rglob("*"))
        for tab in list(guarded.page.state_holder.session_data):
            HTTP.get(f"{guarded.address}/gradio_api/deep_link?session_hash={tab}")
        assert set(guarded.inbox.rglob("*")) == before

    def test_only_files_that_arrived_are_shown(self, guarded):
        visitor = Visitor(guarded.address)
        (path,) = visitor.send({"a.png": picture_bytes((1, 2, 3))})
        shown = f"{guarded.address}/gradio_api/file="
        assert HTTP.get(shown + path).content == picture_bytes((1, 2, 3))
        for other in ("/etc/passwd", f"{path}/../../../lock", str(guarded.inbox), path[1:]):
            assert HTTP.get(shown + other).status_code == 404
        visitor.add_paths([path], ["a.png"])
        visitor.run("upload_forget")

    def test_a_wrong_method_is_told_the_right_one(self, guarded):
        reply = HTTP.get(f"{guarded.address}{RUN}/compare")
        assert (reply.status_code, reply.json()["error"]) == (
            405,
            "This address answers to POST only.",
        )


@pytest.mark.usefixtures("quiet")
class TestBodies:
    @pytest.mark.parametrize("path", [f"{RUN}/compare", "/gradio_api/mcp/", "/gradio_api/cancel"])
    def test_a_large_body_is_refused(self, guarded, path):
        body = json.dumps({"data": ["x" * 262_144, 5, ""]}).encode()
        reply = post(guarded, path, body)
        assert reply.status_code == 413
        assert "larger than the limit of" in reply.json()["error"]

    def test_it_is_refused_before_it_is_sent(self, guarded):
        for path, length in ((f"{RUN}/compare", 10_000_000), (UPLOAD, 10**12)):
            connection = connect(guarded)
            connection.sendall(head(path, length))
            assert b"413" in connection.recv(100)

    def test_a_body_of_unknown_length_is_counted(self, guarded):
        def pieces() -> Iterator[bytes]:
            while True:
                yield b"x" * 100_000

        started = time.monotonic()
        with contextlib.suppress(httpx.TransportError):
            assert HTTP.post(f"{guarded.address}{RUN}/compare", content=pieces()).status_code == 413
        assert time.monotonic() - started < 5 * SECONDS

    def test_a_list_of_many_files_may_be_longer(self, guarded):
        visitor = Visitor(guarded.address)
        paths = [f"{guarded.inbox}/nothing/{row}" for row in range(500)]
        body = json.dumps(paths) + "x" * 400
        assert len(body) < 262_144
        visitor.add({"a.png": picture_bytes((1, 2, 3))})
        facts = visitor.add_paths(paths, [f"{row} {'n' * 600}" for row in range(500)])
        assert facts["notices_in_all"] == 500
        visitor.run("upload_forget")

    @pytest.mark.parametrize(
        ("path", "body", "sentence"),
        [
            ("compare", b'{"data": [', "not JSON"),
            ("compare", b"", "not JSON"),
            ("compare", b"\xff\xfe\xfd", "not JSON"),
            ("compare", '{"data": ["dog"]}'.encode("utf-16"), "not JSON"),
            ("compare", b"[1, 2]", "a JSON object"),
            ("compare", b'{"data": "x"}', "the list of the function's arguments"),
            ("compare", b'{"data": [' + b"[" * 900 + b"]" * 900 + b"]}", "nested more than"),
            ("compare", b"[" * 100_000, "nested too deep"),
            ("compare", b'{"data": ["dog", Infinity, ""]}', "no number Infinity"),
            ("compare", b'{"data": ["dog", NaN, ""]}', "no number NaN"),
            ("compare", b'{"data": ["dog", 1e999, ""]}', "too large"),
            ("compare", b'{"data": ["dog", ' + b"9" * 400 + b', ""]}', "too large"),
            ("compare", b'{"data": ["dog", ' + b"9" * 5000 + b', ""]}', "not JSON"),
            ("compare", b'{"data": ["dog", 5, ""], "session_hash": 7}', "session_hash"),
            ("compare", b'{"data": [], "session_hash": "' + b"s" * 65 + b'"}', "session_hash"),
            ("compare", b'{"data": ["dog", 5, ""], "fn_index": 9999}', "no function number 9999"),
            ("nothing", b'{"data": []}', "no function called 'nothing'"),
        ],
    )
    def test_what_cannot_be_read_is_one_sentence(self, guarded, path, body, sentence):
        reply = post(guarded, f"{RUN}/{path}", body)
        assert 400 <= reply.status_code < 500
        assert sentence in reply.json()["error"]
        assert len(reply.text) < 400

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
    def test_nor_what_does_not_say_that_it_is_json(self, guarded, kind):
        for body in (b'{"data": ["dog"]}', b'{"data": ["\\ud83d"]}', b"{"):
            url = f"{guarded.address}{RUN}/compare"
            reply = HTTP.post(url, content=body, headers={"Content-Type": kind} if kind else {})
            assert reply.status_code == 415
            assert "Content-Type: application/json" in reply.json()["error"]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("call/compare", b"{"),
            ("call/nothing", b'{"data": []}'),
            ("call/v2/compare", b'{"nonsense": 1}'),
            ("call/v2/compare", b"{}"),
            ("queue/join", b'{"data": []}'),
            ("queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "s"}'),
            ("mcp/", b"{"),
            ("cancel", b"{}"),
        ],
    )
    def test_nor_by_another_way(self, guarded, path, body):
        assert 400 <= post(guarded, f"/gradio_api/{path}", body).status_code < 500

    @pytest.mark.parametrize(
        "values",
        [
            [],
            ["dog", [1], ""],
            ["dog", 5, {"x": 2}],
            [{"a": 1}, 5, ""],
            [5, 5, ""],
            [None] * 3,
        ],
    )
    def test_values_that_do_not_fit_are_one_sentence(self, guarded, values):
        for name in ("compare", "similar", "search_clip"):
            reply = post(guarded, f"{RUN}/{name}", json.dumps({"data": values}).encode())
            assert reply.status_code in (400, 404)
            assert reply.json()["error"]
            assert "request id" not in reply.json()["error"]

    def test_no_function_of_the_page_leaves_a_traceback(self, guarded):
        for number, function in guarded.page.fns.items():
            for value in (-1.5, {"a": [1]}, "x", None):
                body = {"data": [value] * len(function.inputs), "fn_index": number}
                body["session_hash"] = "anybody"
                reply = post(guarded, f"{RUN}/predict", json.dumps(body).encode())
                assert reply.status_code in (200, 400, 404), (function.name, value, reply.text)
                assert "request id" not in reply.text, (function.name, value)

    def test_a_stream_of_nobody_ends_quietly(self, guarded):
        reply = HTTP.get(f"{guarded.address}/gradio_api/queue/data?session_hash=nobody")
        assert "data:" in reply.text


@pytest.mark.usefixtures("quiet")
class TestOutsideFiles:
    @pytest.mark.parametrize(
        "file",
        [
            {"path": "http://127.0.0.1:9/a.png"},
            {"path": "https://example.org/a.png", "orig_name": "a.png"},
            {"path": " HTTP://example.org/a.png"},
            {"path": "", "url": "http://example.org/a.png"},
            {"path": None, "url": "ftp://example.org/a.png"},
        ],
    )
    def test_nothing_is_fetched(self, guarded, file):
        file = {**file, "meta": {"_type": "gradio.FileData"}}
        names = {fn.api_name: number for number, fn in guarded.page.fns.items()}
        add = names["upload_add"]
        calls = {
            f"{RUN}/upload_add": {"data": [None, [file]]},
            "/gradio_api/call/upload_add": {"data": [[file]]},
            "/gradio_api/queue/join": {
                "data": [None, {"deep": [file]}],
                "fn_index": add,
                "session_hash": "s",
            },
            "/gradio_api/mcp/": {"params": {"arguments": {"query": file}}},
        }
        for path, body in calls.items():
            reply = post(guarded, path, json.dumps(body).encode())
            assert reply.status_code == 400
            assert "not fetched from addresses" in reply.json()["error"]

    def test_words_may_be_an_address(self, guarded):
        body = json.dumps({"data": ["http://example.org/a.png", 3, ""]}).encode()
        assert len(post(guarded, f"{RUN}/compare", body).json()["data"][0]["captions"]) == 3

    def test_what_the_page_sends_of_its_own_file_is_taken(self, guarded):
        visitor = Visitor(guarded.address)
        (path,) = visitor.send({"a.png": picture_bytes((1, 2, 3))})
        url = f"{guarded.address}/gradio_api/file={path}"
        sent = {
            "path": path,
            "url": url,
            "orig_name": "a.png",
            "meta": {"_type": "gradio.FileData"},
        }
        assert visitor.run("upload_add", [sent])["waiting"] == ["a.png"]
        visitor.run("upload_forget")


class TestSessions:
    def test_nothing_that_was_typed_is_kept(self, guarded):
        for row in range(20):
            body = {"data": ["typed" * 40_000, 5, ""], "session_hash": f"typist{row}"}
            post(guarded, f"{RUN}/compare", json.dumps(body).encode())
        sessions = guarded.page.state_holder.session_data
        assert "typist19" in sessions
        kept = str([(s.config_values, s.state_data) for s in sessions.values()])
        kept += str(
            [
                getattr(block, "value", "")
                for block in sessions["typist19"].blocks_config.blocks.values()
            ]
        )
        assert "typed" not in kept

    def test_answers_that_nobody_reads_are_bounded(self, guarded):
        number = next(n for n, fn in guarded.page.fns.items() if fn.api_name == "compare")
        body = {"data": ["dog", 1, ""], "fn_index": number, "session_hash": "deaf"}
        statuses = [
            post(guarded, "/gradio_api/queue/join", json.dumps(body).encode()).status_code
            for _ in range(70)
        ]
        assert statuses.count(429) == 6
        with HTTP.stream(
            "GET", f"{guarded.address}/gradio_api/queue/data?session_hash=deaf"
        ) as read:
            assert "close_stream" in "".join(read.iter_text())
        reply = post(guarded, "/gradio_api/queue/join", json.dumps(body).encode())
        assert reply.status_code == 200

    def test_a_crowd_does_not_push_out_a_visitor_s_upload(self, guarded):
        sessions = guarded.page.state_holder
        assert isinstance(sessions, Sessions)
        assert sessions.capacity == 2_000
        visitor = Visitor(guarded.address)
        visitor.add({"a.png": picture_bytes((1, 2, 3))})
        sessions.capacity = 10
        try:
            for row in range(30):
                body = {"data": ["", 5, ""], "session_hash": f"passer-by{row}"}
                post(guarded, f"{RUN}/compare", json.dumps(body).encode())
            assert len(sessions.session_data) == 10
            assert visitor.run("upload_forget") == {"forgotten": True}
        finally:
            sessions.capacity = 2_000

    def test_k_is_a_number(self, guarded):
        visitor = Visitor(guarded.address)
        visitor.add({"a.png": picture_bytes((1, 2, 3))})
        visitor.describe()
        for k in (2.5, True, "5", None, -1, 10**18):
            with pytest.raises(Refused, match=r"\(k\) must be"):
                visitor.run("upload_compare", "red", k)
            with pytest.raises(Refused, match=r"\(k\) must be"):
                visitor.run("similar", image_id(0), "clip", k, "")
        visitor.run("upload_forget")
