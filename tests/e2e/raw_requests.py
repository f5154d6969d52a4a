"""Requests that no browser would make, over plain sockets, at a server with small limits."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from urllib.parse import urlsplit

import httpx

from tests.e2e.upload_visitor import Visitor

SECONDS = 1.0
CONNECTIONS = 24
UPLOAD_BYTES = 500_000
RUN = "/gradio_api/run"
UPLOAD = "/gradio_api/upload"
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'


HTTP = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0), timeout=30)
"""A client that opens a connection for each request, and knows no certificates to load."""


def post(app, path: str, body: bytes, kind: str = "application/json") -> httpx.Response:
    return HTTP.post(app.address + path, content=body, headers={"Content-Type": kind})


def connect(app) -> socket.socket:
    parts = urlsplit(app.address)
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


def stored(app) -> int:
    """The bytes in the inbox, whose files and folders may go while they are counted."""
    total = 0
    for at, _, names in os.walk(app.inbox):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(at, name)).st_size
    return total


def take(app, paths: list[str]) -> None:
    """Take files out of the inbox and forget them."""
    visitor = Visitor(app.address)
    assert visitor.add_paths(paths, ["a"] * len(paths))["waiting"]
    visitor.run("upload_forget")
