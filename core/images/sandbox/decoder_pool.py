"""Decoding where it can be stopped: in processes with limits of time and memory.

Untrusted bytes never meet a decoder in the process that serves or builds. A process that dies
or takes too long is replaced, and its picture is refused with a sentence. What all pictures need
together is bounded: a process has a little memory for every picture, and one whose header asks for
more is begun again once that is free.

::

    pool                                  process
      order (JSON), content   ->
                              <-          {"shown": [w, h], "size": [w, h], "notes": [...]}, RGB
                              or          {"refused": reason}
                              or          {"needs": bytes}   more than the order allows
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from core.errors import DecodingStoppedError
from core.images.pixels import Pixels
from core.images.recognise import OUT_OF_MEMORY, RefusedError
from core.images.sandbox.decoder_handle import DecoderProcess, ProcessDiedError
from core.images.sandbox.memory_budget import MemoryBudget

if TYPE_CHECKING:
    from core.images.decode import DecodeLimits

SMALL_PICTURE_BYTES = 200_000_000
"""Memory that a process may use for any picture; a JPEG of 16 megapixels needs no more."""
_POLL_S = 0.1
# The system counts the seconds that a process works; one that does nothing is ended by the clock.
_CLOCK_PER_SECOND = 10
_PICTURES_A_PROCESS = 1000
_MOST_PROCESSES = 8
_CRASHED = "makes its decoder crash"
_KILLED = "needs more memory to decode than there is"


def _too_slow(seconds: int) -> str:
    return f"takes longer to decode than the limit of {seconds} s"


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
        self._idle: list[DecoderProcess] = []
        self._all: set[DecoderProcess] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._owner = os.getpid()

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
        order = {
            "max_pixels": limits.max_pixels,
            "working_px": working_px,
            "seconds": limits.max_seconds,
            "memory": SMALL_PICTURE_BYTES + 3 * len(content),
        }
        answer, pixels = self._ask(order, content, stop)
        if "needs" in answer:
            # No process is kept from small pictures meanwhile: the header is read once more.
            with self.memory.reserved(answer["needs"], stop):
                order["memory"] = answer["needs"]
                answer, pixels = self._ask(order, content, stop)
        if "shown" not in answer:
            raise RefusedError(answer.get("refused", OUT_OF_MEMORY))
        image = Image.frombytes("RGB", tuple(answer["shown"]), pixels)
        width, height = answer["size"]
        return Pixels(image, width, height, tuple(answer["notes"]))

    def processes(self) -> list[DecoderProcess]:
        """Return the processes that there are now."""
        with self._changed:
            return list(self._all)

    def close(self) -> None:
        """End all processes, busy or not; nothing is decoded any more."""
        if os.getpid() != self._owner:  # a forked child on its way out
            return
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = self._all.difference(idle)
            self._all.difference_update(idle)
            self._changed.notify_all()
        for process in idle:
            process.end()
        for process in busy:  # whose own threads tidy up
            process.kill()

    def _ask(
        self, order: dict[str, int], content: bytes, stop: threading.Event | None
    ) -> tuple[dict[str, Any], bytes]:
        """Give a file to a process; return what it answers, and RGB if it could decode it."""
        died = 0
        for _ in range(2):  # the system may have ended a process for another picture's memory
            process = self._take(stop)
            try:
                process.send(json.dumps(order).encode(), content)
                self._await_answer(process, order["seconds"], stop)
                answer = json.loads(process.receive())
                pixels = process.receive() if "shown" in answer else b""
                if answer.get("refused") == OUT_OF_MEMORY:
                    process.end()
                return answer, pixels
            except ProcessDiedError as death:
                died = death.signal
                if died == signal.SIGXCPU:
                    raise RefusedError(_too_slow(order["seconds"])) from death
            except BaseException:
                process.end()
                raise
            finally:
                self._give_back(process)
        raise RefusedError(_KILLED if died == signal.SIGKILL else _CRASHED)

    def _await_answer(
        self, process: DecoderProcess, seconds: int, stop: threading.Event | None
    ) -> None:
        latest = time.monotonic() + _CLOCK_PER_SECOND * seconds
        while not process.has_answer(_POLL_S):
            if self._closed or (stop is not None and stop.is_set()):
                raise DecodingStoppedError
            if time.monotonic() > latest:
                raise RefusedError(_too_slow(seconds))

    def _take(self, stop: threading.Event | None) -> DecoderProcess:
        with self._changed:
            while not self._closed:
                if self._idle:
                    return self._idle.pop()
                if len(self._all) < self._places:
                    process = DecoderProcess()
                    self._all.add(process)
                    return process
                if stop is not None and stop.is_set():
                    break
                self._changed.wait(None if stop is None else _POLL_S)
            raise DecodingStoppedError

    def _give_back(self, process: DecoderProcess) -> None:
        process.pictures += 1
        if process.pictures >= _PICTURES_A_PROCESS:
            process.end()  # so that what a decoder leaks never adds up
        with self._changed:
            if process.is_fit:
                self._idle.append(process)
            else:
                self._all.discard(process)
            self._changed.notify()


def decoder_pool() -> DecoderPool:
    """Return the pool of this process, with as many decoding processes as there are cores."""
    with _making:
        return _made()


@cache
def _made() -> DecoderPool:
    from core.config import get_settings

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # One more than cores: a small picture need not wait for large ones on all of them.
    pool = DecoderPool(min(cores, _MOST_PROCESSES) + 1, get_settings().max_decode_bytes)
    atexit.register(pool.close)
    return pool


def close_decoders() -> None:
    """End all decoding processes of this one; nothing is decoded any more."""
    if _made.cache_info().currsize:
        _made().close()


def _after_fork() -> None:
    """Let a forked child have a pool of its own: it must not speak into its parent's pipes."""
    global _making
    _making = threading.Lock()
    _made.cache_clear()


_making = threading.Lock()
os.register_at_fork(after_in_child=_after_fork)
