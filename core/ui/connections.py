"""Connections that are bounded in number and time, which uvicorn leaves open.

Uvicorn counts requests once their heads are complete (``limit_concurrency``), and closes a
connection that rests after an answer (``timeout_keep_alive``). It does not end one whose request
never becomes complete, nor one that does not read its answer; a thousand of those use up the
file descriptors of a process.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from uvicorn import Config

logger = logging.getLogger("twolens")

_SPARE = 64
_FILES = 8192
_WARN_EVERY_S = 60.0


def bound_connections(config: Config, most: int, head_s: float) -> None:
    """Bound the connections that a server accepts from now on.

    Args:
        config: Of the server, which may run already.
        most: Requests that find so many connections open are told to come later; of connections
            a few more are accepted. At most half of the files that the process may open, which
            are raised first: so many connections as wait in the queue are accepted at once before
            the surplus is closed.
        head_s: Seconds in which the head of a request must be complete; an answer that is not
            read for three times as long ends the connection.
    """
    most = min(most, _files() // 2)
    config.limit_concurrency = most
    config.ws_protocol_class = None  # no route of ours speaks it
    door = _Door(most + _SPARE, head_s)
    config.http_protocol_class = type("BoundedProtocol", (_BoundedProtocol,), {"door": door})


def _files() -> int:
    """Raise how many files the process may open to what it needs, and return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return max(soft, target)


class _Door:
    """What all connections of a server share."""

    def __init__(self, most: int, head_s: float) -> None:
        self.most = most
        self.head_s = head_s
        self._warned_at = float("-inf")

    def say_full(self, now: float) -> None:
        """Log that connections are turned away, at most once a minute."""
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            logger.warning("more than %d connections at once: the rest are closed", self.most)


class _BoundedProtocol(H11Protocol):
    """Uvicorn's protocol, which closes a connection that keeps it waiting."""

    door: _Door

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as uvicorn hands them over
        super().__init__(**options)
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.door.most:
            self.door.say_full(self.loop.time())
            transport.abort()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._writes_again()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(3 * self.door.head_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._writes_again()
        super().resume_writing()

    def _await_head(self) -> None:
        """Begin to wait for the head of a request, unless that has begun."""
        if self._head is None:
            self._head = self.loop.call_later(self.door.head_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _writes_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
