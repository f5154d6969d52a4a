"""What every request passes first: which routes exist, how much a body may hold, and how long.

Gradio serves some eighty routes. Those that TwoLens needs are listed here; any other is a 404
before gradio sees it. A body other than an upload is read here, whole and checked, so that behind
this door there is neither a slow sender nor JSON that cannot be read.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from core.ui.parts.events import sentence_for

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
_DEEPEST = 32
_SESSION_CHARS = 64
_LARGEST_NUMBER = 2**63
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
class Function:
    """What the guard knows of a function behind the page: its API name, and if it takes files."""

    name: str | None
    takes_files: bool


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
_BY_NAME = f"{_API}call/v2/"
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
    _rule("/thumbnails/.+"),
)
_UPLOAD_RULES = (
    _rule(re.escape(UPLOAD_PATH), _POST, "form"),
    _rule(re.escape(PROGRESS_PATH), streams=True),
    _rule(f"{re.escape(_FILE)}.+"),
    _rule("/uploads/.+"),
)


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        status: Of HTTP, 4xx or 503.
    """

    def __init__(self, status: int, sentence: str) -> None:
        """Keep the status; the sentence is what the caller is told."""
        self.status = status
        super().__init__(sentence)


class Guard:
    """ASGI middleware: lets through what is on the list and within the limits.

    Args:
        app: What answers.
        limits: What a request may be.
        functions: By the number that gradio gave them.
    """

    def __init__(
        self, app: ASGIApp, limits: RequestLimits, functions: Mapping[int, Function]
    ) -> None:
        """Guard an app."""
        self._app = app
        self._limits = limits
        self._functions = functions
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

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
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
            body = await self._body(scope, receive, rule)
            self._check(path, body, rule)
            receive = _replayed(body, receive)
        elif _length(scope) or _header(scope, b"transfer-encoding"):
            raise Refusal(400, "A request of this kind has no body.")
        if path.startswith(_BY_NAME) and rule.body:
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

    async def _body(self, scope: Scope, receive: Receive, rule: _Rule) -> bytes:
        most = self._limits.list_bytes if rule.body == "call" else self._limits.body_bytes
        _check_size(_length(scope), most)
        body = bytearray()
        try:
            with anyio.fail_after(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    body += message.get("body", b"")
                    _check_size(len(body), most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise self._too_slow() from None

    def _timed(self, scope: Scope, receive: Receive) -> Receive:
        """Count and time an upload as it arrives.

        Only the time that passes in waiting counts: what the server needs itself is not the
        sender's.
        """
        _check_size(_length(scope), self._limits.upload_bytes)
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
            _check_size(total, self._limits.upload_bytes)
            if in_window >= _SLOWEST_BYTES_A_S * seconds:
                waited, in_window = 0.0, 0
            elif waited >= seconds:
                raise self._too_slow()
            return message

        return timed

    def _too_slow(self) -> Refusal:
        return Refusal(408, f"Nothing more arrived for {self._limits.seconds:g} seconds.")

    def _check(self, path: str, body: bytes, rule: _Rule) -> None:
        """Refuse a body that no function can take.

        Raises:
            Refusal: It is not JSON, not what gradio calls a call, or tells the server to fetch.
        """
        value = _read(body)
        _check_values(value)
        takes_files = False
        if rule.body == "call":
            if not isinstance(value, dict):
                raise Refusal(400, "The body must be a JSON object.")
            takes_files = self._function(path, value).takes_files
            _check_call(path, value)
        if not takes_files:
            _check_size(len(body), self._limits.body_bytes)

    def _function(self, path: str, value: dict[str, Any]) -> Function:
        functions = self._functions
        number = value.get("fn_index")
        if number is not None and "/call/" not in path:
            if isinstance(number, int) and number in functions:
                return functions[number]
            raise Refusal(404, f"There is no function number {str(number)[:20]}.")
        if path.endswith("/queue/join"):
            raise Refusal(400, "fn_index, the number of the function, is missing.")
        name = path.rstrip("/").rpartition("/")[2]
        for function in functions.values():
            if function.name == name:
                return function
        raise Refusal(404, f"There is no function called {name[:40]!r}.")


def _check_call(path: str, value: dict[str, Any]) -> None:
    if _BY_NAME not in path and not isinstance(value.get("data"), list):
        raise Refusal(400, "data must be the list of the function's arguments.")
    tab = value.get("session_hash")
    if tab is not None and (not isinstance(tab, str) or len(tab) > _SESSION_CHARS):
        raise Refusal(400, f"session_hash is a text of at most {_SESSION_CHARS} characters.")


def _read(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    def refuse(constant: str) -> None:
        raise Refusal(400, f"JSON has no number {constant}.")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise Refusal(400, "The JSON is nested too deep.") from None
    except ValueError as error:
        raise Refusal(400, f"The body is not JSON: {str(error)[:80]}.") from None


def _check_values(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Refuse what is nested too deep, numbers that are none, and files at another server."""
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > _DEEPEST:
                raise Refusal(400, f"The JSON is nested more than {_DEEPEST} deep.")
            if isinstance(value, dict):
                _check_file(value)
                value = value.values()
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, (int, float)) and not -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
            raise Refusal(400, "A number of the request is too large.")


def _check_file(value: dict[str, Any]) -> None:
    """Refuse a file that lies elsewhere: gradio would download it before any handler runs."""
    path, address = value.get("path"), value.get("url")
    if _is_elsewhere(path) or (not path and _is_elsewhere(address)):
        raise Refusal(400, "Files are not fetched from addresses; please send the file itself.")


def _is_elsewhere(path: object) -> bool:
    return isinstance(path, str) and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise Refusal(413, f"The request is larger than the limit of {_in_words(most)}.")


def _in_words(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size // 1024:,} KB"


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
