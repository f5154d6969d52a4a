"""The real app in a process of its own, asked over HTTP as any client would."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from core.errors import TwoLensError

ROOT = Path(__file__).resolve().parents[3]
START_LIMIT_S = 180.0
REQUEST_LIMIT_S = 30.0
_STOP_LIMIT_S = 10.0
_POLL_S = 0.05


class AppError(TwoLensError):
    """The app did not start, or did not answer."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process and its children, in MB of 10^6 bytes.

    Attributes:
        own: What no file holds; where the system does not tell, all of it.
        gallery: Mapped files of the gallery, which the system takes back when it is short.
        libraries: All other mapped files.
    """

    own: float
    gallery: float
    libraries: float

    @property
    def resident(self) -> float:
        """All of it."""
        return self.own + self.gallery + self.libraries


def memory_of(pid: int, gallery: Path) -> Memory:
    """Return the memory of a process and its children; what they share counts for each."""
    import psutil

    own = of_gallery = libraries = 0
    process = psutil.Process(pid)
    for member in (process, *process.children(recursive=True)):
        if not hasattr(member, "memory_maps"):
            own += member.memory_info().rss
            continue
        for part in member.memory_maps(grouped=True):
            anonymous = getattr(part, "anonymous", 0)
            own += anonymous
            if Path(part.path).is_relative_to(gallery.resolve()):
                of_gallery += part.rss - anonymous
            else:
                libraries += part.rss - anonymous
    return Memory(own / 1e6, of_gallery / 1e6, libraries / 1e6)


class RunningApp:
    """An app that answers on a loopback port.

    Attributes:
        first_answer_s: Seconds from the start of the process to the first answered query.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, log: IO[bytes], gallery: Path
    ) -> None:
        """Take over a process that was just started."""
        self._process, self._gallery = process, gallery
        self._port = port
        self._log = log
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_LIMIT_S)
        self.first_answer_s = float("nan")

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def ask(self, endpoint: str, *arguments: object) -> tuple[Any, float]:
        """Call a named endpoint; return its JSON and the milliseconds it took.

        Raises:
            AppError: It answered with an error.
            OSError: It did not answer.
        """
        body = json.dumps({"data": arguments})
        headers = {"Content-Type": "application/json"}
        started = time.perf_counter()
        try:
            self._connection.request("POST", f"/gradio_api/run/{endpoint}", body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ConnectionError(str(error)) from error
        took_ms = (time.perf_counter() - started) * 1000
        if response.status != 200:
            raise AppError(f"/{endpoint} answered {response.status}: {content[:200]!r}.")
        return json.loads(content)["data"][0], took_ms

    def compare(self, query: str) -> tuple[Any, float]:
        """Ask ``/compare`` for five pictures a lens; see :meth:`ask`."""
        return self.ask("compare", query, 5, "")

    def memory(self) -> Memory:
        """Return the memory of its processes; the first gallery's files are told apart."""
        return memory_of(self._process.pid, self._gallery)

    def wait(self, query: str, started: float) -> None:
        """Ask until the first answer comes.

        Raises:
            AppError: It ended, answered with an error, or took longer than the limit.
        """
        while time.perf_counter() - started < START_LIMIT_S:
            if self._process.poll() is not None:
                raise AppError(f"The app stopped before it answered: {self._last_words()}")
            try:
                self.compare(query)
            except OSError:
                time.sleep(_POLL_S)
                continue
            self.first_answer_s = time.perf_counter() - started
            return
        raise AppError(f"The app gave no answer within {START_LIMIT_S:.0f} s: {self._last_words()}")

    def stop(self) -> None:
        """End the process, if need be the hard way."""
        self._connection.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


@contextmanager
def running_app(
    galleries: Sequence[Path], profile: str, query: str, log_folder: Path
) -> Iterator[RunningApp]:
    """Start ``app.py`` on a free loopback port; yield once it has answered; stop it in the end.

    Args:
        galleries: What it serves.
        profile: Which models answer.
        query: The first question.
        log_folder: Where its output is kept while it runs.

    Raises:
        AppError: It does not start, or does not answer.
    """
    port = _free_port()
    command = [sys.executable, str(ROOT / "app.py"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--profile", profile]
    for gallery in galleries:
        command += ["--gallery", str(gallery)]
    with (log_folder / "app.log").open("w+b") as log:
        started = time.perf_counter()
        # All visitors of a bench come from one address.
        environment = {**os.environ, "TWOLENS_REQUESTS_PER_MINUTE": "0"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        app = RunningApp(process, port, log, galleries[0])
        try:
            app.wait(query, started)
            yield app
        finally:
            app.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
