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


def picture_routes(shelf: Shelf) -> list[Route]:
    """Return ``/thumbnails/{gallery}/{id}.webp`` and ``/large/{gallery}/{id}.webp``.

    A visitor's text never becomes part of a path: the gallery is looked up on the shelf, the id in
    that gallery's records, and the file's name is derived from the record. An id names the bytes
    of its image, so the answer may be cached for good.
    """
    return [
        _route(shelf, "thumbnails", Gallery.read_thumbnail),
        _route(shelf, "large", Gallery.read_large),
    ]


def _route(shelf: Shelf, kind: str, read: Callable[[Gallery, str], bytes]) -> Route:
    async def picture(request: Request) -> Response:
        image_id = request.path_params["image_id"]
        missing = PlainTextResponse("no such picture", status_code=404)
        if not _IMAGE_ID.fullmatch(image_id):
            return missing
        try:
            content = await run_in_threadpool(
                lambda: read(shelf.entry(request.path_params["gallery"]).gallery, image_id)
            )
        except TwoLensError:
            return missing
        return Response(content, media_type="image/webp", headers={"Cache-Control": _FOR_GOOD})

    return Route(f"/{kind}/{{gallery}}/{{image_id}}.webp", picture, methods=["GET", "HEAD"])
