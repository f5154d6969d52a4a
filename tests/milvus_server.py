"""Milvus's own server in a process that a test may kill: `pip install milvus==2.3.5`, 57 MB.

The package holds the server of several parts in one program, with its own etcd and message queue.
One at a time: the port of its etcd cannot be chosen.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

START_LIMIT_S = 180


class MilvusServer:
    """One folder and one port, started as often as it is called for.

    Attributes:
        uri: Where it answers once it is started.
    """

    def __init__(self, folder: Path) -> None:
        milvus = pytest.importorskip("milvus", reason="the package milvus is not installed")
        self._folder = folder
        port, self._health = _free_ports(2)
        self.uri = f"http://127.0.0.1:{port}"
        config = milvus.MilvusServerConfig(data_dir=str(folder), proxy_port=port)
        config.resolve()
        milvus._initialize_data_files(str(folder))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says that it is well."""
        program = self._folder / "bin" / "milvus"
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": str(program.parent),
        }
        with (self._folder / "logs" / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "run", "standalone"],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_LIMIT_S
        while not self._is_well():
            assert self._process.poll() is None, f"Milvus ended; see {self._folder}/logs"
            assert time.monotonic() < until, "Milvus did not start"
            time.sleep(0.2)

    def _is_well(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._health}/healthz", timeout=5
            ) as it:
                return b"OK" in it.read()
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class LiteServer:
    """Milvus Lite, as a server of the same interface."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("milvus_lite", reason="requirements-milvus.txt is not installed")
        (port,) = _free_ports(1)
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "milvus_lite.cmdline", "server"]
        self._command += ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, **quiet)
        until = time.monotonic() + START_LIMIT_S
        while not self._listens():
            assert time.monotonic() < until, "Milvus Lite did not start"
            time.sleep(0.2)

    def _listens(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", int(self.uri.rpartition(":")[2]))) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
