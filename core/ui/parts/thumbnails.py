"""The routes that serve pictures, so that gradio's own file route needs no allowed folder."""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import TwoLensError
from core.gallery.reader import Gallery
from core.ui.galleries.shelf import Shelf

_IMAGE_ID = re.compile(r"[0-9a-f]{16}")
_FOR_GOOD = "public, max-age=31536000, immutable"
_MISSING = PlainTextResponse("no such picture", status_code=404)


def picture_routes(shelf: Shelf) -> list[Route]:
    """Return ``/thumbnails/{gallery}/{id}.webp``, ``/large/...`` and ``/awaited/{id}.webp``.

    A visitor's text never becomes part of a path: the gallery is looked up on the shelf, the id in
    that gallery's records, and the file's name is derived from the record. An id names the bytes
    of its image, so the answer may be cached for good.
    """
    return [
        _route(shelf, "thumbnails", Gallery.read_thumbnail),
        _route(shelf, "large", Gallery.read_large),
        Route("/awaited/{image_id}.webp", _awaited(shelf), methods=["GET", "HEAD"]),
    ]


def awaited_address(image_id: str) -> str:
    """Return the address of a picture of the gallery that is being built."""
    return f"awaited/{image_id}.webp"


def _awaited(shelf: Shelf) -> Callable[[Request], Response]:
    def picture(request: Request) -> Response:
        awaited = shelf.awaited
        content = awaited.thumbnail(request.path_params["image_id"]) if awaited else None
        return _MISSING if content is None else _picture(content)

    return picture


def _picture(content: bytes) -> Response:
    return Response(content, media_type="image/webp", headers={"Cache-Control": _FOR_GOOD})


def _route(shelf: Shelf, kind: str, read: Callable[[Gallery, str], bytes]) -> Route:
    async def picture(request: Request) -> Response:
        image_id = request.path_params["image_id"]
        if not _IMAGE_ID.fullmatch(image_id):
            return _MISSING
        try:
            content = await run_in_threadpool(
                lambda: read(shelf.entry(request.path_params["gallery"]).gallery, image_id)
            )
        except TwoLensError:
            return _MISSING
        return _picture(content)

    return Route(f"/{kind}/{{gallery}}/{{image_id}}.webp", picture, methods=["GET", "HEAD"])
