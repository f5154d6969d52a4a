"""Tells a page how much of an upload has arrived, in the messages that gradio's page reads."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from core.ui.guard import PROGRESS_PATH

_MOST = 512
_ID_CHARS = 64
_POLL_S = 0.05
_WAIT_S = 3.0
_SIGN_OF_LIFE_S = 15.0


class UploadProgress:
    """Bytes that arrived since the page last asked, for the uploads of this moment."""

    def __init__(self) -> None:
        """Know of none."""
        self._arrived: OrderedDict[str, dict[str, int] | None] = OrderedDict()

    def begin(self, upload_id: str) -> None:
        """Expect an upload; the oldest is dropped if there are too many."""
        if 0 < len(upload_id) <= _ID_CHARS:
            self._arrived[upload_id] = {}
            while len(self._arrived) > _MOST:
                self._arrived.popitem(last=False)

    def add(self, upload_id: str, name: str, size: int) -> None:
        """Count a piece of a file."""
        sizes = self._arrived.get(upload_id)
        if sizes is not None:
            sizes[name] = sizes.get(name, 0) + size

    def end(self, upload_id: str) -> None:
        """Let a page that listens know that all has arrived, or nothing more will."""
        if upload_id in self._arrived:
            self._arrived[upload_id] = None

    def route(self) -> Route:
        """Return the route that a page listens to."""
        return Route(PROGRESS_PATH, self._tell, methods=["GET"])

    async def _tell(self, request: Request) -> Response:
        upload_id = request.query_params.get("upload_id", "")
        until = time.monotonic() + _WAIT_S
        while upload_id not in self._arrived:
            if time.monotonic() > until:
                return PlainTextResponse("There is no such upload.", status_code=404)
            await asyncio.sleep(_POLL_S)
        return StreamingResponse(self._messages(upload_id), media_type="text/event-stream")

    async def _messages(self, upload_id: str) -> AsyncIterator[str]:
        last = time.monotonic()
        while (sizes := self._arrived.get(upload_id)) is not None:
            while sizes:
                name, size = sizes.popitem()
                yield _event({"msg": "update", "orig_name": name, "chunk_size": size})
                last = time.monotonic()
            if time.monotonic() - last > _SIGN_OF_LIFE_S:
                yield _event({"msg": "heartbeat"})
                last = time.monotonic()
            await asyncio.sleep(_POLL_S)
        yield _event({"msg": "done"})


def _event(message: dict[str, object]) -> str:
    return f"data: {json.dumps(message)}\n\n"
