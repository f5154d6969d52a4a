"""What a browser fetches for the tab "Map": its script and style, the points, and one picture."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import TwoLensError
from core.map.stored import read_map
from core.records import LENSES
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.results.cards import Standing, detail_of

_STATIC = Path(__file__).parents[1] / "static"
_IMAGE_ID = re.compile(r"[0-9a-f]{16}")
_FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}
_FILES = {"js": ("map_paint.js", "map_chart.js", "map.js"), "css": ("map.css",)}
_TYPES = {"js": "text/javascript", "css": "text/css"}


@cache
def map_file(kind: str) -> bytes:
    """Return the tab's own ``js`` or ``css``."""
    return b"".join((_STATIC / name).read_bytes() for name in _FILES[kind])


@cache
def map_file_address(kind: str) -> str:
    """Return the address of :func:`map_file`, which changes whenever its content does."""
    return f"map/map.{kind}?v={hashlib.sha256(map_file(kind)).hexdigest()[:12]}"


def points_address(entry: ShelvedGallery) -> str:
    """Return the address of a gallery's points, relative to the page; "" if it has no map.

    Raises:
        GalleryError: The map cannot be read.
    """
    found = read_map(entry.gallery)
    return f"map/{entry.slug}.bin?v={entry.version}{found.version}" if found else ""


def points(entry: ShelvedGallery) -> bytes | None:
    """Return a gallery's points: ids of 8 bytes, then float32 x and y of each lens; None for none.

    Raises:
        GalleryError: The map cannot be read.
    """
    found = read_map(entry.gallery)
    if found is None:
        return None
    ids = bytes.fromhex("".join(entry.gallery.ids))
    return ids + b"".join(found.coordinates[lens].astype("<f4").tobytes() for lens in LENSES)


def map_routes(shelf: Shelf) -> list[Route]:
    """Return ``/map/map.js|css``, ``/map/{gallery}.bin`` and ``/map/{gallery}/{id}.json``.

    Only galleries of the shelf are looked up: a visitor's upload has no map.
    """

    async def file(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in _FILES:
            return _missing()
        return Response(map_file(kind), media_type=_TYPES[kind], headers=_FOR_GOOD)

    async def data(request: Request) -> Response:
        try:
            entry = shelf.entry(request.path_params["gallery"])
            content = await run_in_threadpool(points, entry)
        except TwoLensError:
            return _missing()
        if content is None:
            return _missing()
        return Response(content, media_type="application/octet-stream", headers=_FOR_GOOD)

    async def picture(request: Request) -> Response:
        image_id = request.path_params["image_id"]
        if not _IMAGE_ID.fullmatch(image_id):
            return _missing()
        try:
            entry = shelf.entry(request.path_params["gallery"])
            detail = detail_of(entry, entry.gallery.record(image_id), Standing())
        except TwoLensError:
            return _missing()
        content = json.dumps(detail, ensure_ascii=False)
        headers = {"Cache-Control": "no-cache"}  # a gallery that is built anew has other captions
        return Response(content, media_type="application/json", headers=headers)

    methods = ["GET", "HEAD"]
    return [
        Route("/map/map.{kind}", file, methods=methods),
        Route("/map/{gallery}.bin", data, methods=methods),
        Route("/map/{gallery}/{image_id}.json", picture, methods=methods),
    ]


def _missing() -> Response:
    return PlainTextResponse("no such thing", status_code=404)
