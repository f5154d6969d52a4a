"""The first thing that a request passes: who it is, how often it may come, what the log says."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response

from core.activity import RequestNote, current_request
from core.ui.operation.rate_limit import RateLimit
from core.ui.operation.route_names import is_costly, route_name
from core.ui.operation.visitors import address_behind_proxies, network_of, peer_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from core.config import Settings
    from core.ui.operation.prometheus import Metrics

logger = logging.getLogger("twolens")
REQUEST_LOG = "twolens.requests"
_GONE = 499
"""In the log: whoever asked did not wait for the answer. (The number is nginx's.)"""


@dataclass(slots=True)
class _Answer:
    status: int = 0
    received: int = 0
    sent: int = 0


class FrontDoor:
    """ASGI middleware: names each request, limits how often a visitor comes, logs one line.

    The line is JSON: time, request (its id, which the answer carries as ``X-Request-Id``), route,
    method, status, ms, bytes received and sent. It holds no address, no path and no words of a
    visitor; the words of a search only where ``log_queries`` asks for them.

    Args:
        app: What answers.
        settings: ``requests_per_minute``, ``trust_proxy``, ``log_requests``, ``log_queries``.
        endpoints: Names of the functions that can be called.
        metrics: Where requests are counted; None for nowhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        endpoints: Collection[str],
        metrics: Metrics | None = None,
    ) -> None:
        """Stand before an app."""
        self._app = app
        self._settings = settings
        self._endpoints = frozenset(endpoints)
        self._metrics = metrics
        self._limit = RateLimit(settings.requests_per_minute)
        self._log = _request_log(settings.log_requests)
        self._said_proxy = settings.trust_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = route_name(path, self._endpoints)
        note = RequestNote(secrets.token_hex(4))
        answer = _Answer()

        async def receiving() -> Message:
            message = await receive()
            answer.received += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = note.id
            answer.sent += len(message.get("body", b""))
            await send(message)

        token = current_request.set(note)
        try:
            scope = self._with_visitor(scope)
            refused = self._refused(scope, path, route)
            await (refused or self._app)(scope, receiving, sending)
        except Exception:
            answer.status = answer.status or 500
            raise
        finally:
            current_request.reset(token)
            seconds = time.perf_counter() - started
            self._tell(route, scope["method"], answer, seconds, note)

    def _with_visitor(self, scope: Scope) -> Scope:
        if self._settings.trust_proxy:
            return {**scope, "client": (address_behind_proxies(scope), 0)}
        if not self._said_proxy and any(key == b"x-forwarded-for" for key, _ in scope["headers"]):
            self._said_proxy = True
            logger.warning(
                "a request carries X-Forwarded-For, which is not believed; if a proxy of yours "
                "adds it, set TWOLENS_TRUST_PROXY=1, or all visitors count as one"
            )
        return scope

    def _refused(self, scope: Scope, path: str, route: str) -> Response | None:
        if not is_costly(route, scope["method"]):
            return None
        wait_s = self._limit.wait_s(network_of(peer_of(scope)))
        if not wait_s:
            return None
        seconds = "a second" if wait_s == 1 else f"{wait_s} seconds"
        sentence = (
            f"That is more than {self._settings.requests_per_minute} requests a minute from your "
            f"address; please go on in {seconds}."
        )
        headers = {"Retry-After": str(wait_s)}
        if path.startswith("/gradio_api/"):
            content = {"error": sentence, "detail": sentence}
            return JSONResponse(content, status_code=429, headers=headers)
        return PlainTextResponse(sentence, status_code=429, headers=headers)

    def _tell(
        self, route: str, method: str, answer: _Answer, seconds: float, note: RequestNote
    ) -> None:
        status = answer.status or _GONE
        if self._metrics is not None:
            self._metrics.answered(route, method, status, seconds, answer.received)
        if self._log is None:
            return
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request": note.id,
            "route": route,
            "method": method[:10],
            "status": status,
            "ms": round(seconds * 1000, 1),
            "received": answer.received,
            "sent": answer.sent,
        }
        if self._settings.log_queries and note.query:
            line["query"] = note.query
        self._log.info(json.dumps(line, ensure_ascii=False))


def _request_log(asked: bool | None) -> logging.Logger | None:
    """Return the log of requests, whose lines are JSON and nothing else; None for no log."""
    if asked is False or (asked is None and sys.stderr.isatty()):
        return None
    log = logging.getLogger(REQUEST_LOG)
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    return log
