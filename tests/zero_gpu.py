"""The machine under a ZeroGPU Space, as far as goes without one: who gets a GPU, and who does not.

It speaks the interface that the package ``spaces`` asks. There is no GPU here, so a worker that is
let in fails when it reaches for it: that is how a lost GPU looks to the app.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Turn:
    """How one request for a GPU ends.

    Attributes:
        left_s: GPU seconds that the visitor has; None for no GPU being free.
        kills: Whether a worker that is let in is ended, as one that others need more.
    """

    left_s: int | None = 500
    kills: bool = False


class ZeroGpu(ThreadingHTTPServer):
    """Answers ``spaces``.

    Attributes:
        turns: One for each request for a GPU; the last one stays.
        asked: Query parameters of each request for a GPU.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.turns = [Turn()]
        self.asked: list[dict[str, str]] = []

    def next_turn(self, asked: dict[str, str]) -> Turn:
        self.asked.append(asked)
        self.turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return self.turn

    @property
    def environment(self) -> dict[str, str]:
        """What a ZeroGPU Space sets."""
        return {
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{self.server_port}",
        }


@contextmanager
def zero_gpu() -> Iterator[ZeroGpu]:
    machine = ZeroGpu()
    thread = threading.Thread(target=machine.serve_forever, daemon=True)
    thread.start()
    try:
        yield machine
    finally:
        machine.shutdown()
        machine.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ZeroGpu

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/schedule":
            self._schedule(asked)
            return
        if url.path == "/allow" and self.server.turn.kills:
            os.kill(int(asked["pid"]), signal.SIGKILL)
        self._answer(200, {})

    def _schedule(self, asked: dict[str, str]) -> None:
        left_s = self.server.next_turn(asked).left_s
        if left_s is None:
            self._answer(503, {})
        elif int(asked["durationSeconds"]) > left_s:
            self._answer(429, {"left": left_s, "wait": "PT1H23M"})
        else:
            gpu = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "token"}
            self._answer(200, gpu)

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
