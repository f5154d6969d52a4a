"""What every request passes first: which routes exist, how much a body may hold, and how long.

Gradio serves some eighty routes. Those that TwoLens needs are listed here; any other is a 404
before gradio sees it. A body other than an upload is read here, whole and checked, so that behind
this door there is neither a slow sender nor JSON that cannot be read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from core.ui.operation.link_preview import PREVIEW_PATH
from core.ui.operation.route_names import HEALTH_PATH, METRICS_PATH
from core.ui.parts.events import refusal_statuses, sentence_for
from core.ui.request_bodies import BY_NAME, Function, Refusal, check_body, check_call, check_size

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from core.config import Settings

UPLOAD_PATH = "/gradio_api/upload"
PROGRESS_PATH = "/gradio_api/upload_progress"
_FILE = "/gradio_api/file="
_READ = ("GET", "HEAD")
_POST = ("POST",)
_BODY_BYTES = 256 * 1024
_BYTES_A_FILE = 1024
_HEAD_BYTES = 32 * 1024
_FORM_BYTES = 16 * 1024 * 1024
_SLOWEST_BYTES_A_S = 1024


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request may be.

    Attributes:
        connections: Connections that may be open at once.
        body_bytes: Largest body outside uploads.
        list_bytes: Largest body that names files which were uploaded.
        upload_bytes: Largest body of one upload request.
        seconds: Time for a request's head, for a whole body outside uploads, and for each next
            piece of an upload: a slower sender is cut.
        inbox: Where uploads arrive; None where there are none.
    """

    connections: int
    body_bytes: int
    list_bytes: int
    upload_bytes: int
    seconds: float
    inbox: Path | None

    @classmethod
    def of(cls, settings: Settings, inbox: Path | None) -> RequestLimits:
        """Take the limits from the settings."""
        return cls(
            connections=settings.max_connections,
            body_bytes=_BODY_BYTES,
            list_bytes=_BODY_BYTES + _BYTES_A_FILE * settings.max_upload_files,
            upload_bytes=2 * settings.max_upload_bytes + _FORM_BYTES,
            seconds=settings.request_timeout_s,
            inbox=inbox,
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    """Paths of one kind.

    Attributes:
        path: Matches the whole path.
        methods: What may be asked of it.
        body: What a POST carries: a call of a function, other JSON, or a form with files.
        streams: Whether the answer may stay open for as long as the visitor does.
    """

    path: re.Pattern[str]
    methods: tuple[str, ...] = _READ
    body: str = ""
    streams: bool = False


def _rule(path: str, *args: Any, **options: Any) -> _Rule:  # noqa: ANN401
    return _Rule(re.compile(path), *args, **options)


_API = "/gradio_api/"
_NAME = "[A-Za-z0-9_]{1,64}"
_RULES = (
    # The page, its files, and what describes the API.
    _rule("/|/config/?|/theme.css|/manifest.json|/favicon.ico|/robots.txt"),
    _rule("/(assets|static|svelte)/.+"),
    _rule(f"{_API}(info/?|openapi.json|theme.css|app_id/?|startup-events)"),
    # Calls of a function, by the page, by gradio's clients, and over plain HTTP.
    _rule(f"{_API}(run|api)/{_NAME}/?", _POST, "call"),
    _rule(f"{_API}call/(v2/)?{_NAME}/?", _POST, "call"),
    _rule(f"{_API}queue/join", _POST, "call"),
    _rule(f"{_API}(cancel|reset/?)", _POST, "json"),
    _rule(f"{_API}queue/data", streams=True),
    _rule(f"{_API}call/(v2/)?{_NAME}/[A-Za-z0-9_-]{{1,64}}", streams=True),
    _rule(f"{_API}heartbeat/[A-Za-z0-9_-]{{1,64}}", streams=True),
    # Agents.
    _rule(f"{_API}mcp(/|/http/?)?", ("GET", "HEAD", "POST", "DELETE"), "json", streams=True),
    _rule(f"{_API}mcp/schema"),
    # Our own.
    _rule("/(thumbnails|large|awaited|map)/.+"),
    _rule(f"{re.escape(HEALTH_PATH)}|{re.escape(METRICS_PATH)}|{re.escape(PREVIEW_PATH)}"),
)
_UPLOAD_RULES = (
    _rule(re.escape(UPLOAD_PATH), _POST, "form"),
    _rule(re.escape(PROGRESS_PATH), streams=True),
    _rule(f"{re.escape(_FILE)}.+"),
    _rule("/uploads/.+"),
)


class Guard:
    """ASGI middleware: lets through what is on the list and within the limits.

    Args:
        app: What answers.
        limits: What a request may be.
        functions: By the number that gradio gave them.
        unread: Number of calls of a session whose answers wait for it.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: RequestLimits,
        functions: Mapping[int, Function],
        unread: Callable[[str], int],
    ) -> None:
        """Guard an app."""
        self._app = app
        self._limits = limits
        self._functions = functions
        self._unread = unread
        self._rules = _RULES + (_UPLOAD_RULES if limits.inbox is not None else ())
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with one sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        begun = False
        statuses: list[int] = []
        refusal_statuses.set(statuses)

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            if statuses and message.get("status") == 500:
                # Gradio answers so whatever a function refuses.
                message = {**message, "status": statuses[-1]}
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            await self._answer(path, scope, receive, sending)
        except ClientDisconnect:
            return  # nobody is there to be told
        except Exception as error:
            if begun and isinstance(error.__cause__, HTTPException):
                # Gradio has told the caller already, in the stream itself.
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            if begun:
                raise
            await _refused(path, error)(scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        rule = self._rule_for(path, scope)
        if rule.body == "form":
            receive = self._timed(scope, receive)
        elif scope["method"] == "POST":
            most = self._limits.list_bytes if rule.body == "call" else self._limits.body_bytes
            body = await self._body(scope, receive, most)
            if b"json" not in _header(scope, b"content-type").lower():
                raise Refusal(415, "The body is JSON: send it with Content-Type: application/json.")
            value = check_body(body)
            if rule.body != "call" or not check_call(path, value, self._functions, self._unread):
                check_size(len(body), self._limits.body_bytes)
            receive = _replayed(body, receive)
        elif _length(scope) or _header(scope, b"transfer-encoding"):
            raise Refusal(400, "A request of this kind has no body.")
        if path.startswith(BY_NAME) and rule.body:
            try:
                await self._app(scope, receive, send)
            except (TypeError, ValueError) as error:
                raise Refusal(400, f"The arguments do not fit: {str(error)[:200]}") from error
            return
        if not rule.streams:
            await self._app(scope, receive, send)
            return
        if self._streams >= self._limits.connections // 2:
            raise Refusal(503, "Too many visitors are connected; please try again in a minute.")
        self._streams += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams -= 1

    def _rule_for(self, path: str, scope: Scope) -> _Rule:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEAD_BYTES:
            raise Refusal(431, f"The headers are longer than {_HEAD_BYTES // 1024} KB.")
        rules = [rule for rule in self._rules if rule.path.fullmatch(path)]
        if not rules or (path.startswith(_FILE) and not self._in_inbox(path[len(_FILE) :])):
            raise Refusal(404, "There is nothing at this address.")
        for rule in rules:
            if scope["method"] in rule.methods:
                return rule
        raise Refusal(405, f"This address answers to {' and '.join(rules[0].methods)} only.")

    def _in_inbox(self, path: str) -> bool:
        inbox = self._limits.inbox
        return inbox is not None and os.path.normpath(path).startswith(f"{inbox}{os.sep}")

    async def _body(self, scope: Scope, receive: Receive, most: int) -> bytes:
        check_size(_length(scope), most)
        body = bytearray()
        try:
            with anyio.fail_after(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    body += message.get("body", b"")
                    check_size(len(body), most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise self._too_slow() from None

    def _timed(self, scope: Scope, receive: Receive) -> Receive:
        """Count and time an upload as it arrives.

        Only the time that passes in waiting counts: what the server needs itself is not the
        sender's.
        """
        check_size(_length(scope), self._limits.upload_bytes)
        seconds, total, waited, in_window = self._limits.seconds, 0, 0.0, 0

        async def timed() -> Message:
            nonlocal total, waited, in_window
            started = time.monotonic()
            try:
                with anyio.fail_after(seconds - waited):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            waited += time.monotonic() - started
            size = len(message.get("body", b""))
            total += size
            in_window += size
            check_size(total, self._limits.upload_bytes)
            if in_window >= _SLOWEST_BYTES_A_S * seconds:
                waited, in_window = 0.0, 0
            elif waited >= seconds:
                raise self._too_slow()
            return message

        return timed

    def _too_slow(self) -> Refusal:
        return Refusal(408, f"Nothing more arrived for {self._limits.seconds:g} seconds.")


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _length(scope: Scope) -> int:
    value = _header(scope, b"content-length")
    return int(value) if value.isdigit() else 0


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Hand over a body that was read, then whatever else comes."""
    given = False

    async def replaying() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


def _refused(path: str, error: Exception) -> Response:
    refusal = isinstance(error, Refusal)
    status = error.status if isinstance(error, Refusal) else 500
    sentence = str(error) if refusal else sentence_for(error, path[:80])
    headers = {"Connection": "close"} if status == 408 else None
    if path.startswith(_API) and path != UPLOAD_PATH:
        content = {"error": sentence, "detail": sentence}
        return JSONResponse(content, status_code=status, headers=headers)
    return PlainTextResponse(sentence, status_code=status, headers=headers)
