"""What runs in a decoding process: pictures come in by one pipe and go out decoded.

Started by :mod:`core.images.sandbox.decoder_pool`, which explains the messages. The process imports
nothing but decoders, ends with its parent, and is held to limits of time and memory by the system.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from core.images.pixels import Pixels, load_decoders, open_picture, pixels_of
from core.images.recognise import OUT_OF_MEMORY, RefusedError, reason_of


def main(messages: int, lifeline: int) -> None:
    """Decode until the other end of ``messages`` is closed.

    Args:
        messages: Descriptor of a socket.
        lifeline: Descriptor of a pipe that the parent holds open as long as it lives.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _end_with_parent(lifeline)
    load_decoders()
    connection = Connection(messages)
    with suppress(EOFError, ConnectionError):
        while True:
            _serve_one(connection)


def _end_with_parent(lifeline: int) -> None:
    """Have the system end this process, busy or not, when the parent's end of a pipe closes."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit()


def _serve_one(connection: Connection) -> None:
    order = json.loads(connection.recv_bytes())
    content = connection.recv_bytes()
    _limit_time(order["seconds"])
    _limit_memory(order["memory"])
    try:
        found = _decoded(order, content)
    except _NeedsMoreError as more:
        answer: dict[str, Any] = {"needs": more.size}
    except RefusedError as refusal:
        answer = {"refused": refusal.reason}
    except MemoryError:
        answer = {"refused": OUT_OF_MEMORY}
    except Exception as error:  # on hostile bytes, decoders raise anything
        answer = {"refused": reason_of(error, content)}
    else:
        size = [found.width, found.height]
        answer = {"shown": found.image.size, "size": size, "notes": found.notes}
    _limit_memory(None)
    connection.send_bytes(json.dumps(answer).encode())
    if "shown" in answer:
        connection.send_bytes(found.image.tobytes())


class _NeedsMoreError(Exception):
    """A picture that needs more memory than it may have now."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(size)


def _decoded(order: dict[str, int], content: bytes) -> Pixels:
    def reserve(size: int) -> None:
        if size > order["memory"]:
            raise _NeedsMoreError(size)

    return pixels_of(open_picture(content, order["max_pixels"], reserve), order["working_px"])


def _limit_time(seconds: int) -> None:
    """Have the system end this process when it has worked for so many seconds more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit_memory(allowed: int | None) -> None:
    """Let this process take so many bytes more than it has now; None lifts the limit.

    Only Linux counts what a process has written to; elsewhere the estimate from the header is the
    only limit.
    """
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if not sys.platform.startswith("linux"):
        return
    soft = hard
    if allowed is not None:
        pages = int(Path("/proc/self/statm").read_bytes().split()[5])
        soft = pages * resource.getpagesize() + allowed
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
