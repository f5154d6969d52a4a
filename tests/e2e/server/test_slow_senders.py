"""Forms that are no uploads, senders that stop, and crowds, against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from gradio.route_utils import BUILD_PATH_LIB

from core.ui.connections import bound_connections
from tests.e2e.raw_requests import (
    CONNECTIONS,
    FORM,
    HTTP,
    PART,
    RUN,
    SECONDS,
    UPLOAD,
    UPLOAD_BYTES,
    answer,
    connect,
    head,
    post,
    stored,
    take,
    until,
)
from tests.e2e.upload_visitor import Visitor


@pytest.mark.usefixtures("quiet")
class TestForms:
    @pytest.mark.parametrize(
        ("kind", "body", "sentence"),
        [
            ("multipart/form-data; boundary=" + "b" * 60_000, b"x", "headers"),
            ("multipart/form-data; boundary=" + "b" * 300, b"x", "boundary"),
            ("multipart/form-data", b"x", "boundary"),
            ("text/plain", b"x", "multipart/form-data"),
            (FORM, b"nonsense", "cannot be read"),
            (FORM, PART + b"half a picture", "ends before"),
            (FORM, PART.replace(b'"files"', b'"video"') + b"x\r\n--b--\r\n", "called 'files'"),
            (FORM, PART.replace(b'; filename="a.png"', b"") + b"x\r\n--b--\r\n", "files only"),
            (FORM, PART.replace(b"a.png", b"a" * 9_000) + b"x\r\n--b--\r\n", "cannot be read"),
            (FORM, b"--b\r\n\r\nx\r\n--b--\r\n", "called 'files'"),
            (FORM, (PART + b"\r\n") * 2_001 + b"--b--\r\n", "at most 2,000 files"),
        ],
    )
    def test_what_is_no_upload_leaves_nothing(self, guarded, kind, body, sentence):
        reply = post(guarded, UPLOAD, body, kind)
        assert 400 <= reply.status_code < 500
        assert sentence in reply.text
        assert not list(guarded.inbox.iterdir())

    def test_a_visitor_who_goes_away_leaves_nothing(self, guarded):
        connection = connect(guarded)
        connection.sendall(head(UPLOAD, 400_000) + PART + b"x" * 100_000)
        assert until(lambda: stored(guarded) > 0)
        connection.close()
        assert until(lambda: not list(guarded.inbox.iterdir()))

    def test_bytes_count_as_they_arrive(self, guarded):
        connections = [connect(guarded) for _ in range(8)]
        for connection in connections:
            connection.sendall(head(UPLOAD, 450_000) + PART + b"x" * 440_000)
        most = 0

        def watched() -> bool:
            nonlocal most
            most = max(most, stored(guarded))
            return not list(guarded.inbox.iterdir())

        answers = []
        for connection in connections:
            watched()
            answers.append(connection.recv(13))
        assert until(watched)
        assert most <= 4 * UPLOAD_BYTES
        assert answers.count(b"HTTP/1.1 503 ") >= 4  # those that came when others held the room
        assert set(answers) == {b"HTTP/1.1 503 ", b"HTTP/1.1 408 "}
        take(guarded, Visitor(guarded.address).send({"a": b"x"}))  # the room is given back

    def test_progress_is_told_while_files_arrive(self, guarded):
        told = []

        def listen() -> None:
            url = f"{guarded.address}/gradio_api/upload_progress?upload_id=mine"
            with HTTP.stream("GET", url) as lines:
                told.extend(json.loads(ln[5:]) for ln in lines.iter_lines() if ln.strip())

        listener = threading.Thread(target=listen)
        listener.start()
        files = [("files", (name, b"x" * 90_000)) for name in ("a", "b")]
        reply = HTTP.post(f"{guarded.address}{UPLOAD}?upload_id=mine", files=files)
        take(guarded, reply.json())
        listener.join(10)
        assert told[-1] == {"msg": "done"}
        sizes = {"a": 0, "b": 0}
        for message in told[:-1]:
            sizes[message["orig_name"]] += message["chunk_size"]
        assert all(size in (0, 90_000) for size in sizes.values())
        gone = HTTP.get(f"{guarded.address}/gradio_api/upload_progress?upload_id=other")
        assert gone.status_code == 404


@pytest.mark.usefixtures("quiet")
class TestSlowSenders:
    @pytest.mark.parametrize("path", [f"{RUN}/compare", UPLOAD, "/gradio_api/mcp/"])
    def test_a_body_that_stops_is_cut(self, guarded, path):
        connection = connect(guarded)
        connection.sendall(head(path, 1_000) + PART)
        started = time.monotonic()
        assert b"408" in answer(connection)
        assert time.monotonic() - started < 5 * SECONDS
        assert not list(guarded.inbox.iterdir())

    @pytest.mark.parametrize("path", [f"{RUN}/compare", UPLOAD])
    def test_a_body_that_trickles_is_cut(self, guarded, path):
        connection = connect(guarded)
        connection.sendall(head(path, 100_000) + PART)
        connection.settimeout(0.1)
        got = b""
        for _ in range(60):
            try:
                connection.sendall(b"x")
                got = connection.recv(100)
                break
            except TimeoutError:
                continue
        assert b"408" in got

    def test_a_head_that_stops_is_cut(self, guarded):
        connections = [connect(guarded) for _ in range(3)]
        connections[1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        connections[2].sendall(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while b"Disallow" not in got:
            got += connections[2].recv(4096)
        connections[2].sendall(b"GET / HTTP/1.1\r\n")  # half of the next one
        started = time.monotonic()
        assert [answer(connection) for connection in connections] == [b"", b"", b""]
        assert time.monotonic() - started < 4 * SECONDS

    def test_a_head_that_trickles_is_cut(self, guarded):
        connection = connect(guarded)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(60):
                time.sleep(0.1)
                connection.sendall(b"X: y\r\n")

    def test_a_body_where_none_belongs_does_not_hold_a_connection(self, guarded):
        connection = connect(guarded)
        connection.sendall(head("/", 100_000, method="GET"))
        assert b"400" in connection.recv(4096)
        with pytest.raises(ConnectionError):
            for _ in range(60):
                time.sleep(0.1)
                connection.sendall(b"x")

    def test_an_answer_that_nobody_reads_is_given_up(self, guarded):
        connection = connect(guarded)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        name = max(Path(BUILD_PATH_LIB).iterdir(), key=lambda path: path.stat().st_size).name
        connection.sendall(f"GET /assets/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 20)
        server = guarded.page.server.server_state
        port = connection.getsockname()[1]
        ours = [found for found in server.connections if found.client[1] == port]
        assert ours
        assert until(lambda: ours[0] not in server.connections, 20)


@pytest.mark.usefixtures("quiet")
class TestConnections:
    def test_half_sent_requests_do_not_use_up_the_process_s_files(self, guarded):
        most = CONNECTIONS + 64
        files = len(os.listdir("/proc/self/fd"))
        crowd = []
        for _ in range(3 * most):
            with contextlib.suppress(OSError):
                crowd.append(connect(guarded))
                crowd[-1].sendall(b"POST /gradio_api/run/compare HTTP/1.1\r\nHost: x\r\n")
        connections = guarded.page.server.server_state.connections
        assert until(lambda: len(connections) <= most)
        assert until(lambda: len(os.listdir("/proc/self/fd")) - files - len(crowd) <= most + 8)
        assert until(lambda: not guarded.page.server.server_state.connections, 6 * SECONDS)
        for connection in crowd:
            connection.close()
        assert HTTP.get(f"{guarded.address}/robots.txt").status_code == 200

    def test_streams_leave_room_for_requests(self, guarded):
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(httpx.Client())
            statuses = [
                stack.enter_context(
                    client.stream("GET", f"{guarded.address}/gradio_api/heartbeat/tab{row}")
                ).status_code
                for row in range(CONNECTIONS // 2 + 2)
            ]
            assert statuses == [200] * (CONNECTIONS // 2) + [503] * 2
            body = {"data": ["dog", 3, ""]}
            reply = HTTP.post(f"{guarded.address}{RUN}/compare", json=body)
            assert reply.status_code == 200

    def test_never_more_than_half_of_the_process_s_files(self):
        config = SimpleNamespace()
        bound_connections(config, 10**9, 1)
        assert config.limit_concurrency < 10**9
