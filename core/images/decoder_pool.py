"""Decoding where it can be stopped: in processes with limits of time and memory.

Bytes from strangers never meet a decoder in the process that serves or builds. A process that dies
or takes too long is replaced, and its picture is refused with a sentence. What all pictures need
together is bounded: a process has a little memory for every picture, and waits until the rest that
the picture's header asks for is free.

::

    pool                                  process
      order (JSON), content   ->
                              <-          {"needs": bytes}   if the little memory is not enough
      "go on"                 ->
                              <-          {"shown": [w, h], "size": [w, h], "notes": [...]}, RGB
                              or          {"refused": reason}
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
from core.images.decoder_handle import DecoderProcess, ProcessDiedError
from core.images.memory_budget import MemoryBudget
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
_MOST_PROCESSES = 8
_TOO_SLOW = "takes longer to decode than the limit of {} seconds"
_CRASHED = "makes its decoder crash"
_KILLED = "needs more memory to decode than there is"


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
        died = 0
        for _ in range(2):  # the system may have ended a process for another picture's memory
            process = self._take(stop)
            try:
                return self._decode(process, content, limits, working_px, stop)
            except ProcessDiedError as death:
                died = death.signal
                if died == signal.SIGXCPU:
                    raise RefusedError(_TOO_SLOW.format(limits.max_seconds)) from death
            finally:
                self._give_back(process)
        raise RefusedError(_KILLED if died == signal.SIGKILL else _CRASHED)

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

    def _decode(
        self,
        process: DecoderProcess,
        content: bytes,
        limits: DecodeLimits,
        working_px: int,
        stop: threading.Event | None,
    ) -> Pixels:
        order = {
            "max_pixels": limits.max_pixels,
            "working_px": working_px,
            "seconds": limits.max_seconds,
            "memory": SMALL_PICTURE_BYTES + 3 * len(content),
        }
        try:
            process.send(json.dumps(order).encode(), content)
            answer = self._answer(process, limits, stop)
            if "needs" in answer:
                with self.memory.reserved(answer["needs"], stop):
                    process.send(b"go on")
                    answer = self._answer(process, limits, stop)
            pixels = process.receive() if "shown" in answer else b""
        except BaseException:
            process.end()
            raise
        if "refused" in answer:
            if answer["refused"] == OUT_OF_MEMORY:
                process.end()
            raise RefusedError(answer["refused"])
        image = Image.frombytes("RGB", tuple(answer["shown"]), pixels)
        width, height = answer["size"]
        return Pixels(image, width, height, tuple(answer["notes"]))

    def _answer(
        self, process: DecoderProcess, limits: DecodeLimits, stop: threading.Event | None
    ) -> dict[str, Any]:
        latest = time.monotonic() + _CLOCK_PER_SECOND * limits.max_seconds
        while not process.has_answer(_LOOK_EVERY_S):
            if self._closed or (stop is not None and stop.is_set()):
                raise DecodingStoppedError
            if time.monotonic() > latest:
                raise RefusedError(_TOO_SLOW.format(limits.max_seconds))
        return json.loads(process.receive())

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
                self._changed.wait(None if stop is None else _LOOK_EVERY_S)
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
    # One more than cores, so that a small picture need not wait while a large one waits for memory.
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
