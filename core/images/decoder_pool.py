"""Decoding where it can be stopped: in processes with limits of time and memory.

Bytes from strangers never meet a decoder in the process that serves or builds. A process that dies
or takes too long is replaced, and its picture is refused with a sentence. What all pictures need
together is bounded: a process has a little memory for every picture, and waits until the rest that
the picture's header asks for is free.

::

    pool                                  process
      order (JSON)            ->          the file lies in memory that both share
                              <-          {"needs": bytes}   if the little memory is not enough
      "go on"                 ->
                              <-          {"shown": [w, h], "size": [w, h], "notes": [...]}
                              or          {"refused": reason}   RGB lies in the shared memory
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from PIL import Image

from core.errors import DecodingStoppedError, TwoLensError
from core.images.pixels import Pixels
from core.images.recognise import OUT_OF_MEMORY, RefusedError

if TYPE_CHECKING:
    from core.images.decode import DecodeLimits

SMALL_PICTURE_BYTES = 128_000_000
"""Memory that a process may use for any picture; a JPEG of 10 megapixels needs no more."""
_LOOK_EVERY_S = 0.1
# The system counts the seconds that a process works; one that does nothing is ended by the clock.
_CLOCK_PER_SECOND = 10
_PICTURES_A_PROCESS = 1000
_KEPT_SHARED_BYTES = 4_000_000
_MOST_PROCESSES = 8
_TOO_SLOW = "takes longer to decode than the limit of {} seconds"
_CRASHED = "makes its decoder crash"
_KILLED = "needs more memory to decode than there is"
_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from core.images.decoder_process import main; main({arguments})"
)


class MemoryBudget:
    """Bytes that several threads share; who asked first is served first."""

    def __init__(self, total: int) -> None:
        """Share so many bytes."""
        self.total = total
        self._free = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, size: int, stop: threading.Event | None = None) -> Iterator[None]:
        """Wait for so many bytes, and hold them.

        Raises:
            RefusedError: There will never be so many.
            DecodingStoppedError: ``stop`` was set first.
        """
        if size > self.total:
            raise RefusedError(
                f"needs {size / 1e9:,.1f} GB of memory to decode, over the limit of "
                f"{self.total / 1e9:,.1f} GB"
            )
        place = object()
        with self._changed:
            self._waiting.append(place)
            try:
                while self._waiting[0] is not place or self._free < size:
                    if stop is not None and stop.is_set():
                        raise DecodingStoppedError
                    self._changed.wait(None if stop is None else _LOOK_EVERY_S)
                self._free -= size
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


class _DiedError(Exception):
    """A process ended with a picture in hand.

    Attributes:
        signal: What ended it, 0 if it ended by itself.
    """

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(number)


class _Process:
    """One decoding process; used by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._shared = _shared_memory()
        theirs_too = (theirs.fileno(), self._shared, lifeline)
        code = _CODE.format(path=sys.path, arguments=", ".join(map(str, theirs_too)))
        # Pillow and numpy start no threads of their own: there is a process for each core.
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._connection = Connection(ours.detach())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=theirs_too,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **one_thread},
            )
        except OSError as error:
            self._close()
            raise TwoLensError(
                f"No process to decode pictures can be started ({error.strerror})."
            ) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.is_fit = True
        self.pictures = 0

    def send(self, message: bytes) -> None:
        with self._death_told():
            self._connection.send_bytes(message)

    def receive(self) -> bytes:
        with self._death_told():
            return self._connection.recv_bytes()

    def share(self, content: bytes) -> None:
        """Put a file into the shared memory."""
        written = 0
        while written < len(content):
            written += os.pwrite(self._shared, memoryview(content)[written:], written)

    def shared(self, size: int) -> bytes:
        """Take so many bytes out of the shared memory, and empty it if it was much."""
        found = os.pread(self._shared, size, 0)
        if os.fstat(self._shared).st_size > _KEPT_SHARED_BYTES:
            os.ftruncate(self._shared, 0)
        return found

    def has_answer(self, seconds: float) -> bool:
        return self._connection.poll(seconds)

    @contextmanager
    def _death_told(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            cause = max(0, -(self._process.returncode or 0))
            self.end()
            raise _DiedError(cause) from error

    def end(self) -> None:
        """Kill the process, whatever it is at."""
        if self.is_fit:
            self.is_fit = False
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        self._connection.close()
        os.close(self._lifeline)
        os.close(self._shared)


def _shared_memory() -> int:
    """Return the descriptor of a file in memory, or where there is none, on disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("picture")
    with tempfile.TemporaryFile(prefix="twolens-") as file:
        return os.dup(file.fileno())


class DecoderPool:
    """Decoding processes, started when needed and kept; safe to use from several threads.

    A process inherits the priority of the thread that starts it.
    """

    def __init__(self, processes: int, memory: int) -> None:
        """Start nothing yet.

        Args:
            processes: Most processes at once.
            memory: Bytes that large pictures may need together.
        """
        self.memory = MemoryBudget(memory)
        self._places = processes
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._changed = threading.Condition()
        self._closed = False

    def decode(
        self,
        content: bytes,
        limits: DecodeLimits,
        working_px: int,
        stop: threading.Event | None = None,
    ) -> Pixels:
        """Decode one file.

        Args:
            content: The file.
            limits: What to refuse.
            working_px: Longest side wanted.
            stop: Ends the work when it is set.

        Raises:
            RefusedError: The file cannot be used.
            DecodingStoppedError: ``stop`` was set, or the pool is closed.
            TwoLensError: No process can be started.
        """
        died = 0
        for _ in range(2):  # the system may have ended a process for another picture's memory
            process = self._take(stop)
            try:
                return self._decode(process, content, limits, working_px, stop)
            except _DiedError as death:
                died = death.signal
                if died == signal.SIGXCPU:
                    raise RefusedError(_TOO_SLOW.format(limits.max_seconds)) from death
            finally:
                self._give_back(process)
        raise RefusedError(_KILLED if died == signal.SIGKILL else _CRASHED)

    def close(self) -> None:
        """End all processes, busy or not; nothing is decoded any more."""
        with self._changed:
            self._closed = True
            processes = list(self._all)
            self._changed.notify_all()
        for process in processes:
            process.end()

    def _decode(
        self,
        process: _Process,
        content: bytes,
        limits: DecodeLimits,
        working_px: int,
        stop: threading.Event | None,
    ) -> Pixels:
        order = {
            "max_pixels": limits.max_pixels,
            "working_px": working_px,
            "bytes": len(content),
            "seconds": limits.max_seconds,
            "memory": SMALL_PICTURE_BYTES + 3 * len(content),
        }
        try:
            process.share(content)
            process.send(json.dumps(order).encode())
            answer = self._answer(process, limits, stop)
            if "needs" in answer:
                with self.memory.reserved(answer["needs"], stop):
                    process.send(b"go on")
                    answer = self._answer(process, limits, stop)
            width, height = answer.get("shown", (0, 0))
            pixels = process.shared(3 * width * height)
        except BaseException:
            process.end()
            raise
        if "refused" in answer:
            if answer["refused"] == OUT_OF_MEMORY:
                process.end()
            raise RefusedError(answer["refused"])
        image = Image.frombytes("RGB", (width, height), pixels)
        width, height = answer["size"]
        return Pixels(image, width, height, tuple(answer["notes"]))

    def _answer(
        self, process: _Process, limits: DecodeLimits, stop: threading.Event | None
    ) -> dict[str, Any]:
        latest = time.monotonic() + _CLOCK_PER_SECOND * limits.max_seconds
        while not process.has_answer(_LOOK_EVERY_S):
            if self._closed or (stop is not None and stop.is_set()):
                raise DecodingStoppedError
            if time.monotonic() > latest:
                raise RefusedError(_TOO_SLOW.format(limits.max_seconds))
        return json.loads(process.receive())

    def _take(self, stop: threading.Event | None) -> _Process:
        with self._changed:
            while not self._closed:
                if self._idle:
                    return self._idle.pop()
                if len(self._all) < self._places:
                    process = _Process()
                    self._all.add(process)
                    return process
                if stop is not None and stop.is_set():
                    break
                self._changed.wait(None if stop is None else _LOOK_EVERY_S)
            raise DecodingStoppedError

    def _give_back(self, process: _Process) -> None:
        process.pictures += 1
        if process.pictures >= _PICTURES_A_PROCESS:
            process.end()  # so that what a decoder leaks never adds up
        with self._changed:
            if process.is_fit:
                self._idle.append(process)
            else:
                self._all.discard(process)
            self._changed.notify()


@cache
def decoder_pool() -> DecoderPool:
    """Return the pool of this process, with as many decoding processes as there are cores."""
    from core.config import get_settings

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # One more than cores, so that a small picture need not wait while a large one waits for memory.
    pool = DecoderPool(min(cores, _MOST_PROCESSES) + 1, get_settings().max_decode_bytes)
    atexit.register(pool.close)
    return pool


def close_decoders() -> None:
    """End all decoding processes of this one, if there are any."""
    if decoder_pool.cache_info().currsize:
        decoder_pool().close()


# A child that is forked must not speak into its parent's pipes.
os.register_at_fork(after_in_child=decoder_pool.cache_clear)
