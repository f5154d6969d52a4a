"""``python app.py`` in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest

import core
from core.errors import ModelError
from core.models.locate import local_folder
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec

REPOSITORY = Path(core.__file__).resolve().parents[1]
START_LIMIT_S = 90


def need_mini(*more: ModelSpec) -> None:
    """Skip where the small checkpoints are not there."""
    mini = PROFILES["mini"]
    for spec in (mini.sentence, mini.clip, *more):
        _need(spec)


def _need(spec: ModelSpec) -> None:
    try:
        folder = local_folder(spec)
    except ModelError as error:
        pytest.skip(str(error))
    if not list(folder.glob("*.safetensors")):
        pytest.skip(f"{spec.name} has no weights in this checkout")


def run_app(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=START_LIMIT_S,
        check=False,
    )


@contextmanager
def running_app(*arguments: object, **environment: str) -> Iterator[str]:
    """Start the app, wait until it says where it answers, and stop it in the end."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-u", "app.py", "--port", str(port), *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(process: subprocess.Popen[str], address: str) -> None:
    lines: Queue[str | None] = Queue()

    def read() -> None:
        # To the end of the app, so that it never waits for somebody to read.
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    Thread(target=read, daemon=True).start()
    said: list[str] = []
    deadline = time.monotonic() + START_LIMIT_S
    with suppress(Empty):
        while (line := lines.get(timeout=max(0, deadline - time.monotonic()))) is not None:
            said.append(line)
            if address in line:
                return
    pytest.fail(f"the app did not start:\n{''.join(said)}")


def free_port() -> int:
    """Return a port that nobody listens on, from the system's own range."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
