"""What a stranger may send: routes, sizes, times, connections; against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest

from core.ui.connections import bound_connections
from core.ui.launch import launch
from core.ui.sessions import Sessions
from tests.e2e.upload_visitor import Refused, Visitor
from tests.planted_app import image_id, planted_shelf
from tests.tiny_uploads import colour_uploads, picture_bytes

SECONDS = 1.0
CONNECTIONS = 24
UPLOAD_BYTES = 500_000
RUN = "/gradio_api/run"
UPLOAD = "/gradio_api/upload"
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
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


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The app with small limits: its address, page and uploads."""
    folder = tmp_path_factory.mktemp("guarded")
    uploads = colour_uploads(
        folder,
        max_upload_bytes=UPLOAD_BYTES,
        max_image_bytes=UPLOAD_BYTES,
        max_connections=CONNECTIONS,
        request_timeout_s=SECONDS,
    )
    before = os.environ.get("GRADIO_TEMP_DIR")
    page = launch(planted_shelf(folder), host="127.0.0.1", port=0, block=False, uploads=uploads)
    address = page.local_url.rstrip("/")
    yield SimpleNamespace(address=address, page=page, uploads=uploads, inbox=uploads.inbox)
    page.close(verbose=False)
    uploads.close()
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture
def quiet(capfd, caplog) -> Iterator[None]:
    """Nothing that a stranger sends leaves a traceback in the log."""
    yield
    written = capfd.readouterr()
    assert "Traceback" not in written.err + written.out + caplog.text


def post(served, path: str, body: bytes, kind: str = "application/json") -> httpx.Response:
    return httpx.post(served.address + path, content=body, headers={"Content-Type": kind})


def connect(served) -> socket.socket:
    parts = urlsplit(served.address)
    found = socket.create_connection((parts.hostname, parts.port), timeout=10)
    found.settimeout(10)
    return found


def head(path: str, length: int | str, kind: str = FORM, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def answer(connection: socket.socket) -> bytes:
    """What arrives until the server closes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            got += piece
    return got


def until(true, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def stored(served) -> int:
    return sum(path.stat().st_size for path in served.inbox.rglob("*") if path.is_file())


def take(served, paths: list[str]) -> None:
    """Take files out of the inbox and forget them."""
    visitor = Visitor(served.address)
    assert visitor.add_paths(paths, ["a"] * len(paths))["waiting"]
    visitor.run("upload_forget")


@pytest.mark.usefixtures("quiet")
class TestRoutes:
    @pytest.mark.parametrize(("method", "path"), CLOSED)
    def test_what_is_not_used_is_closed(self, served, method, path):
        reply = httpx.request(method, served.address + path, follow_redirects=False)
        assert reply.status_code == 404
        assert "nothing at this address" in reply.text

    def test_no_session_is_written_to_disk(self, served):
        Visitor(served.address).run("upload_forget")
        before = set(served.inbox.rglob("*"))
        for tab in list(served.page.state_holder.session_data):
            httpx.get(f"{served.address}/gradio_api/deep_link?session_hash={tab}")
        assert set(served.inbox.rglob("*")) == before

    def test_only_files_that_arrived_are_shown(self, served):
        visitor = Visitor(served.address)
        (path,) = visitor.send({"a.png": picture_bytes((1, 2, 3))})
        shown = f"{served.address}/gradio_api/file="
        assert httpx.get(shown + path).content == picture_bytes((1, 2, 3))
        for other in ("/etc/passwd", f"{path}/../../../lock", str(served.inbox), path[1:]):
            assert httpx.get(shown + other).status_code == 404
        visitor.add_paths([path], ["a.png"])
        visitor.run("upload_forget")

    def test_a_wrong_method_is_told_the_right_one(self, served):
        reply = httpx.get(f"{served.address}{RUN}/compare")
        assert (reply.status_code, reply.json()["error"]) == (
            405,
            "This address answers to POST only.",
        )


@pytest.mark.usefixtures("quiet")
class TestBodies:
    @pytest.mark.parametrize("path", [f"{RUN}/compare", "/gradio_api/mcp/", "/gradio_api/cancel"])
    def test_a_large_body_is_refused(self, served, path):
        body = json.dumps({"data": ["x" * 262_144, 5, ""]}).encode()
        reply = post(served, path, body)
        assert reply.status_code == 413
        assert "larger than the limit of" in reply.json()["error"]

    def test_it_is_refused_before_it_is_sent(self, served):
        for path, length in ((f"{RUN}/compare", 10_000_000), (UPLOAD, 10**12)):
            connection = connect(served)
            connection.sendall(head(path, length))
            assert b"413" in connection.recv(100)

    def test_a_body_of_unknown_length_is_counted(self, served):
        def pieces() -> Iterator[bytes]:
            while True:
                yield b"x" * 100_000

        started = time.monotonic()
        with contextlib.suppress(httpx.TransportError):
            assert httpx.post(f"{served.address}{RUN}/compare", content=pieces()).status_code == 413
        assert time.monotonic() - started < 5 * SECONDS

    def test_a_list_of_many_files_may_be_longer(self, served):
        visitor = Visitor(served.address)
        paths = [f"{served.inbox}/nothing/{row}" for row in range(500)]
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
    def test_what_cannot_be_read_is_one_sentence(self, served, path, body, sentence):
        reply = post(served, f"{RUN}/{path}", body)
        assert 400 <= reply.status_code < 500
        assert sentence in reply.json()["error"]
        assert len(reply.text) < 400

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
    def test_nor_by_another_way(self, served, path, body):
        assert 400 <= post(served, f"/gradio_api/{path}", body).status_code < 500

    @pytest.mark.parametrize(
        "values",
        [
            ["dog"],
            ["dog", [1], ""],
            ["dog", 5, {"x": 2}],
            [{"a": 1}, 5, ""],
            [5, 5, ""],
            [None] * 3,
        ],
    )
    def test_values_that_do_not_fit_are_one_sentence(self, served, values):
        for name in ("compare", "similar", "search_clip"):
            reply = post(served, f"{RUN}/{name}", json.dumps({"data": values}).encode())
            assert reply.json()["error"]
            assert "request id" not in reply.json()["error"]

    def test_no_function_of_the_page_leaves_a_traceback(self, served):
        for number, function in served.page.fns.items():
            for value in (-1.5, {"a": [1]}, "x", None):
                body = {"data": [value] * len(function.inputs), "fn_index": number}
                reply = post(served, f"{RUN}/predict", json.dumps(body).encode())
                assert reply.status_code in (200, 404, 500)
                assert "request id" not in reply.text, (function.name, value)

    def test_a_stream_of_nobody_ends_quietly(self, served):
        reply = httpx.get(f"{served.address}/gradio_api/queue/data?session_hash=nobody")
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
    def test_nothing_is_fetched(self, served, file):
        file = {**file, "meta": {"_type": "gradio.FileData"}}
        names = {fn.api_name: number for number, fn in served.page.fns.items()}
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
            reply = post(served, path, json.dumps(body).encode())
            assert reply.status_code == 400
            assert "not fetched from addresses" in reply.json()["error"]

    def test_words_may_be_an_address(self, served):
        body = json.dumps({"data": ["http://example.org/a.png", 3, ""]}).encode()
        assert len(post(served, f"{RUN}/compare", body).json()["data"][0]["captions"]) == 3

    def test_what_the_page_sends_of_its_own_file_is_taken(self, served):
        visitor = Visitor(served.address)
        (path,) = visitor.send({"a.png": picture_bytes((1, 2, 3))})
        url = f"{served.address}/gradio_api/file={path}"
        sent = {
            "path": path,
            "url": url,
            "orig_name": "a.png",
            "meta": {"_type": "gradio.FileData"},
        }
        assert visitor.run("upload_add", [sent])["waiting"] == ["a.png"]
        visitor.run("upload_forget")


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
    def test_what_is_no_upload_leaves_nothing(self, served, kind, body, sentence):
        reply = post(served, UPLOAD, body, kind)
        assert 400 <= reply.status_code < 500
        assert sentence in reply.text
        assert not list(served.inbox.iterdir())

    def test_a_visitor_who_goes_away_leaves_nothing(self, served):
        connection = connect(served)
        connection.sendall(head(UPLOAD, 400_000) + PART + b"x" * 100_000)
        assert until(lambda: stored(served) > 0)
        connection.close()
        assert until(lambda: not list(served.inbox.iterdir()))

    def test_bytes_count_as_they_arrive(self, served):
        connections = [connect(served) for _ in range(8)]
        for connection in connections:
            connection.sendall(head(UPLOAD, 450_000) + PART + b"x" * 440_000)
        most = 0

        def watched() -> bool:
            nonlocal most
            most = max(most, stored(served))
            return not list(served.inbox.iterdir())

        time.sleep(0.2)
        assert until(watched)
        answers = [answer(connection)[:13] for connection in connections]
        assert 440_000 < most <= 4 * UPLOAD_BYTES
        assert answers.count(b"HTTP/1.1 503 ") >= 4
        assert set(answers) == {b"HTTP/1.1 503 ", b"HTTP/1.1 408 "}
        take(served, Visitor(served.address).send({"a": b"x"}))  # the room is given back

    def test_progress_is_told_while_files_arrive(self, served):
        told = []

        def listen() -> None:
            url = f"{served.address}/gradio_api/upload_progress?upload_id=mine"
            with httpx.stream("GET", url) as lines:
                told.extend(json.loads(ln[5:]) for ln in lines.iter_lines() if ln.strip())

        listener = threading.Thread(target=listen)
        listener.start()
        files = [("files", (name, b"x" * 90_000)) for name in ("a", "b")]
        reply = httpx.post(f"{served.address}{UPLOAD}?upload_id=mine", files=files)
        take(served, reply.json())
        listener.join(10)
        assert told[-1] == {"msg": "done"}
        sizes = {"a": 0, "b": 0}
        for message in told[:-1]:
            sizes[message["orig_name"]] += message["chunk_size"]
        assert all(size in (0, 90_000) for size in sizes.values())
        gone = httpx.get(f"{served.address}/gradio_api/upload_progress?upload_id=other")
        assert gone.status_code == 404


@pytest.mark.usefixtures("quiet")
class TestSlowSenders:
    @pytest.mark.parametrize("path", [f"{RUN}/compare", UPLOAD, "/gradio_api/mcp/"])
    def test_a_body_that_stops_is_cut(self, served, path):
        connection = connect(served)
        connection.sendall(head(path, 1_000) + PART)
        started = time.monotonic()
        assert b"408" in answer(connection)
        assert time.monotonic() - started < 5 * SECONDS
        assert not list(served.inbox.iterdir())

    @pytest.mark.parametrize("path", [f"{RUN}/compare", UPLOAD])
    def test_a_body_that_trickles_is_cut(self, served, path):
        connection = connect(served)
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

    def test_a_head_that_stops_is_cut(self, served):
        connections = [connect(served) for _ in range(3)]
        connections[1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        connections[2].sendall(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while b"Disallow" not in got:
            got += connections[2].recv(4096)
        connections[2].sendall(b"GET / HTTP/1.1\r\n")  # half of the next one
        started = time.monotonic()
        assert [answer(connection) for connection in connections] == [b"", b"", b""]
        assert time.monotonic() - started < 4 * SECONDS

    def test_a_head_that_trickles_is_cut(self, served):
        connection = connect(served)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(60):
                time.sleep(0.1)
                connection.sendall(b"X: y\r\n")

    def test_a_body_where_none_belongs_does_not_hold_a_connection(self, served):
        connection = connect(served)
        connection.sendall(head("/", 100_000, method="GET"))
        assert b"400" in connection.recv(4096)
        with pytest.raises(ConnectionError):
            for _ in range(60):
                time.sleep(0.1)
                connection.sendall(b"x")

    def test_an_answer_that_nobody_reads_is_given_up(self, served):
        connection = connect(served)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        page = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(page * 400)
        server = served.page.server.server_state
        port = connection.getsockname()[1]
        ours = [found for found in server.connections if found.client[1] == port]
        assert ours
        assert until(lambda: ours[0] not in server.connections, 20)


@pytest.mark.usefixtures("quiet")
class TestConnections:
    def test_half_sent_requests_do_not_use_up_the_process_s_files(self, served):
        most = CONNECTIONS + 64
        files = len(os.listdir("/proc/self/fd"))
        crowd = []
        for _ in range(3 * most):
            with contextlib.suppress(OSError):
                crowd.append(connect(served))
                crowd[-1].sendall(b"POST /gradio_api/run/compare HTTP/1.1\r\nHost: x\r\n")
        connections = served.page.server.server_state.connections
        assert until(lambda: len(connections) <= most)
        assert until(lambda: len(os.listdir("/proc/self/fd")) - files - len(crowd) <= most + 8)
        assert until(lambda: not served.page.server.server_state.connections, 6 * SECONDS)
        for connection in crowd:
            connection.close()
        assert httpx.get(f"{served.address}/robots.txt").status_code == 200

    def test_streams_leave_room_for_requests(self, served):
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(httpx.Client())
            statuses = [
                stack.enter_context(
                    client.stream("GET", f"{served.address}/gradio_api/heartbeat/tab{row}")
                ).status_code
                for row in range(CONNECTIONS // 2 + 2)
            ]
            assert statuses == [200] * (CONNECTIONS // 2) + [503] * 2
            body = {"data": ["dog", 3, ""]}
            reply = httpx.post(f"{served.address}{RUN}/compare", json=body)
            assert reply.status_code == 200

    def test_never_more_than_half_of_the_process_s_files(self):
        config = SimpleNamespace()
        bound_connections(config, 10**9, 1)
        assert config.limit_concurrency < 10**9


class TestSessions:
    def test_nothing_that_was_typed_is_kept(self, served):
        for row in range(20):
            body = {"data": ["typed" * 40_000, 5, ""], "session_hash": f"typist{row}"}
            post(served, f"{RUN}/compare", json.dumps(body).encode())
        sessions = served.page.state_holder.session_data
        assert "typist19" in sessions
        kept = str([(s.config_values, s.state_data) for s in sessions.values()])
        kept += str(
            [
                getattr(block, "value", "")
                for block in sessions["typist19"].blocks_config.blocks.values()
            ]
        )
        assert "typed" not in kept

    def test_a_crowd_does_not_push_out_a_visitor_s_upload(self, served):
        sessions = served.page.state_holder
        assert isinstance(sessions, Sessions)
        assert sessions.capacity == 2_000
        visitor = Visitor(served.address)
        visitor.add({"a.png": picture_bytes((1, 2, 3))})
        sessions.capacity = 10
        try:
            for row in range(30):
                body = {"data": ["", 5, ""], "session_hash": f"passer-by{row}"}
                post(served, f"{RUN}/compare", json.dumps(body).encode())
            assert len(sessions.session_data) == 10
            assert visitor.run("upload_forget") == {"forgotten": True}
        finally:
            sessions.capacity = 2_000

    def test_k_is_a_number(self, served):
        visitor = Visitor(served.address)
        visitor.add({"a.png": picture_bytes((1, 2, 3))})
        visitor.describe()
        for k in (2.5, True, "5", None, -1, 10**18):
            with pytest.raises(Refused, match="k "):
                visitor.run("upload_compare", "red", k)
            with pytest.raises(Refused, match="k "):
                visitor.run("similar", image_id(0), "clip", k, "")
        visitor.run("upload_forget")
