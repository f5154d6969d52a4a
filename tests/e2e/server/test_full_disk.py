"""Uploads to a disk without space: refused with the true reason, and nothing is left."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from core.config import Settings
from core.ui.guard import UPLOAD_PATH, Guard, RequestLimits
from core.ui.uploads.inbox import Inbox
from core.uploads.limits import UploadLimits


@pytest.fixture
def sent(tmp_path: Path):
    """Sends one file of so many bytes to an inbox, and returns the answer."""

    def send(size: int, **settings: int) -> SimpleNamespace:
        values = Settings(**settings)
        inbox = Inbox(tmp_path, UploadLimits.of(values), values.upload_free_bytes)
        limits = RequestLimits.of(values, tmp_path)
        guard = Middleware(Guard, limits, {}, lambda _: 0)
        app = Starlette(routes=inbox.routes(), middleware=[guard])
        files = {"files": ("a.png", b"x" * size)}
        return TestClient(app).post(UPLOAD_PATH, files=files)

    return send


def test_space_that_must_stay_free(sent, caplog):
    assert sent(10, upload_free_bytes=0).status_code == 200
    reply = sent(10, upload_free_bytes=10**18)
    assert (reply.status_code, reply.text.split(";")[0]) == (
        503,
        "There is no space left for files here",
    )
    assert "bytes are free" in caplog.text


def test_a_file_that_cannot_be_written(sent, tmp_path, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        reply = sent(1_500_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert reply.status_code == 503
    assert "no space left" in reply.text
    assert not list(tmp_path.iterdir())
    assert "an upload cannot be stored" in caplog.text
