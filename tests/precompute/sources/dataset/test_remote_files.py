"""Pictures named by an address: real servers that answer, stay silent, drip, or lead elsewhere."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.config import Settings
from core.errors import ImageError, SourceError
from precompute.sources.dataset import remote_files, rows
from precompute.sources.dataset.remote_files import RemoteFiles, is_public
from precompute.sources.open import open_source
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo

PHOTO = noise_photo(1)
LIMIT_S = 0.5


def ok(content: bytes = PHOTO) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content


@contextmanager
def served(answer: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """Run a server on a loopback port, each connection one request; yields its address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (more := self.request.recv(4096)):
                    return
                asked += more
            with suppress(OSError):
                answer(self.request, asked.split()[1].decode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("0.0.0.0", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def fetch(files: RemoteFiles, address: str, max_bytes: int = 1_000_000) -> bytes:
    opener, problem = files.open(address, "a.png")
    assert opener is not None, problem
    return opener(max_bytes)


def files(**changes) -> RemoteFiles:
    return RemoteFiles(**{"limit_s": 20, "private": True, **changes})


def silent(connection: socket.socket, path: str) -> None:
    time.sleep(20)


def dripping(connection: socket.socket, path: str) -> None:
    """Send one byte at a time: of the head, or of the body, always in time for a read."""
    head, body = ok(bytes(1000)).split(b"\r\n\r\n", 1)
    if path == "/body":
        connection.sendall(head + b"\r\n\r\n")
        head = b""
    for byte in head + body:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def test_a_picture_is_fetched_up_to_the_limit():
    with served(lambda connection, path: connection.sendall(ok())) as address:
        assert fetch(files(), f"{address}/ä b.png?x=1") == PHOTO
        assert fetch(files(), address, max_bytes=10) == PHOTO[:11]


@pytest.mark.parametrize(
    ("server", "path"), [(silent, "/"), (dripping, "/head"), (dripping, "/body")]
)
def test_a_server_without_an_answer_is_given_up_in_time(server, path):
    with served(server) as address:
        started = time.monotonic()
        with pytest.raises(ImageError, match=r"cannot be fetched \(it did not arrive within 0.5"):
            fetch(files(limit_s=LIMIT_S), address + path)
        assert time.monotonic() - started < 2


def test_a_host_that_fails_three_times_is_asked_no_more():
    asked = []

    def failing(connection: socket.socket, path: str) -> None:
        asked.append(path)
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    with served(failing) as address:
        shared = files()
        for _ in range(6):
            with pytest.raises(ImageError, match="cannot be fetched"):
                fetch(shared, address)
    assert len(asked) == 3


def test_a_host_that_stops_answering_stops_the_reading():
    def answer(connection: socket.socket, path: str) -> None:
        if path != "/gone":
            connection.sendall(
                ok() if path == "/" else b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
            )

    with served(answer) as address:
        shared = files()
        assert fetch(shared, address + "/") == PHOTO
        for _ in range(5):
            with pytest.raises(ImageError, match="answers 404"):
                fetch(shared, address + "/absent")
        for _ in range(2):
            with pytest.raises(ImageError):
                fetch(shared, address + "/gone")
        with pytest.raises(SourceError, match="stopped answering after 6 pictures"):
            fetch(shared, address + "/gone")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_not_asked(host):
    asked = []
    with (
        served(lambda connection, path: asked.append(path)) as address,
        pytest.raises(ImageError, match="is in a private network.*TWOLENS_FETCH_PRIVATE"),
    ):
        fetch(files(private=False), address.replace("127.0.0.1", host))
    assert not asked


def test_a_redirect_leads_neither_to_a_private_address_nor_to_a_file(monkeypatch, tmp_path):
    asked = []

    def redirecting(connection: socket.socket, path: str) -> None:
        asked.append(path)
        port = connection.getsockname()[1]
        place = {
            "/private": f"http://127.0.0.2:{port}/secret",
            "/file": (tmp_path / "x").as_uri(),
            "/round": "/round",
            "/photo": "/",
        }.get(path)
        head = b"" if place is None else b"HTTP/1.1 302 Found\r\nLocation: " + place.encode()
        connection.sendall(head + b"\r\nContent-Length: 0\r\n\r\n" if head else ok())

    # The first hop must be one that counts as public.
    monkeypatch.setattr(remote_files, "is_public", lambda address: address == "127.0.0.1")
    with served(redirecting) as address:
        shared = files(private=False)
        assert fetch(shared, address + "/photo") == PHOTO
        with pytest.raises(ImageError, match="127.0.0.2 is in a private network"):
            fetch(shared, address + "/private")
        with pytest.raises(ImageError, match="another scheme"):
            fetch(shared, address + "/file")
        with pytest.raises(ImageError, match="more than 5 redirects"):
            fetch(shared, address + "/round")
    assert "/secret" not in asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://", "http://a b/", "https://x:99999999/", "http://\ud83d/"]
)
def test_what_is_no_address(address):
    with pytest.raises(ImageError, match="not valid|cannot be fetched"):
        fetch(files(), address)


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/hostname",
        "local:///etc/hostname",
        "zip://a.png::/home/me/private.zip",
        "zip://a.png::file:///home/me/private.zip",
        "zip://a.png::http://example.org/a.zip",
        "simplecache::file:///etc/hostname",
        "zip://a::zip://b::hf://datasets/a/b/c.zip",
        "s3://bucket/private.png",
        "ftp://example.org/a.png",
        "memory://a",
    ],
)
def test_other_schemes_are_refused_by_name(address, tmp_path):
    pq.write_table(pa.table({"image": [address], "text": ["x"]}), tmp_path / "rows.parquet")
    (row,) = open_source(SourceOptions(str(tmp_path / "rows.parquet"))).read(0)
    assert row.content is None
    assert row.problem == "is named by an address that is not http, https or hf"


def test_the_builder_s_token_is_for_the_repository_that_is_read():
    shared = RemoteFiles(["owner/Set"])
    for address, token in (
        ("hf://datasets/owner/set@abc/a.png", None),
        ("zip://a.png::hf://datasets/owner/set/a.zip", None),
        ("hf://datasets/owner/set-private/a.png", False),
        ("hf://datasets/me/private/a.png", False),
        ("hf://datasets/owner/set/../../me/private/resolve/main/a.png", False),
    ):
        opener, _ = shared.open(address, "a.png")
        assert opener.token is token, address


def test_a_hub_that_is_out_of_reach_stops_the_reading_and_a_missing_file_does_not(monkeypatch):
    def answer(connection: socket.socket, path: str) -> None:
        status = "404 Not Found" if "absent" in path else "500 Broken"
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    with served(answer) as address:
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", address)
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetch(files(), "hf://datasets/owner/absent@abc/a.png")
        with pytest.raises(SourceError, match="a.png could not be fetched from the Hub"):
            fetch(files(), "hf://datasets/owner/set@abc/a.png")


def test_a_column_of_addresses_is_read(tmp_path, monkeypatch):
    settings = Settings(fetch_private=True, fetch_timeout_s=20)
    monkeypatch.setattr(rows, "get_settings", lambda: settings)
    with served(lambda connection, path: connection.sendall(ok())) as address:
        cells = [f"{address}/{i}.png?size=large" for i in range(3)]
        pq.write_table(pa.table({"image": cells, "text": ["x"] * 3}), tmp_path / "rows.parquet")
        read = list(open_source(SourceOptions(str(tmp_path / "rows.parquet"))).read(1))
        assert [row.file_name for row in read] == ["1.png", "2.png"]
        assert [row.content(1_000_000) for row in read] == [PHOTO, PHOTO]
        assert not isinstance(read[0].content, (bytes, Path))
