"""The picture that stands beside a link: the page's own, or what both lenses find first."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core.errors import TwoLensError
from core.ui.operation.link_preview import PREVIEW_PATH, PREVIEW_SIZE

if TYPE_CHECKING:
    from core.search.query_language.parse import ParsedQuery
    from core.ui.galleries.shelf import Shelf, ShelvedGallery

GROUND, INK, QUIET = "#fbfaf8", "#1c1917", "#57534e"
CAPTIONS_COLOUR, CLIP_COLOUR = "#a53f14", "#0f5c8f"
_FINER = 2
"""Circles are drawn larger and scaled down, for Pillow draws their edges in steps."""


def preview_route(shelf: Shelf) -> Route:
    """Return the route of the picture; ``?q=WORDS&g=GALLERY`` shows what is found first."""

    async def preview(request: Request) -> Response:
        query = request.query_params.get("q", "").strip()
        name = request.query_params.get("g", "")
        host = request.headers.get("host", "")[:60]
        content = await run_in_threadpool(_answer_drawn, shelf, query, name, host)
        headers = {"Cache-Control": "max-age=3600"}
        return Response(content, media_type="image/png", headers=headers)

    return Route(PREVIEW_PATH, preview, methods=["GET", "HEAD"])


def _answer_drawn(shelf: Shelf, query: str, name: str, host: str) -> bytes:
    if not query:
        return _drawn()
    try:
        entry = shelf.entry(name)
        asked = entry.service.parse(query)
        shown = _found_first(entry, query) if asked.parts else _passing_first(entry, asked)
    except TwoLensError:
        return _drawn()
    picture = Image.new("RGB", PREVIEW_SIZE, GROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((40, 28), _fitted(f"\u201c{asked.text}\u201d"), INK, _font(44))
    for place, (title, colour, content) in enumerate(shown):
        left = 40 + place * 570
        with Image.open(io.BytesIO(content)) as thumbnail:
            fitted = ImageOps.contain(thumbnail.convert("RGB"), (550, 410))
        picture.paste(fitted, (left + (550 - fitted.width) // 2, 150 + (410 - fitted.height) // 2))
        draw.text((left, 102), title, colour, _font(30))
    mark = two_lenses(34)
    picture.paste(mark, (40, 580))
    draw.text((106, 580), f"TwoLens   {host}", QUIET, _font(26))
    return _png(picture)


def _found_first(entry: ShelvedGallery, query: str) -> list[tuple[str, str, bytes]]:
    """Return title, its colour and thumbnail of what each lens that answered finds first."""
    found = entry.service.compare(query, k=1)
    return [
        (title, colour, entry.gallery.read_thumbnail(result.hits[0].id))
        for title, colour, result in (
            ("Caption lens", CAPTIONS_COLOUR, found.captions),
            ("CLIP lens", CLIP_COLOUR, found.clip),
        )
        if result is not None and result.hits
    ]


def _passing_first(entry: ShelvedGallery, asked: ParsedQuery) -> list[tuple[str, str, bytes]]:
    """Return the same of the first two pictures that pass the filters, with how many do."""
    rows = entry.service.passing(asked)
    titles = (f"{len(rows):,} of {len(entry.gallery):,} pictures", "")
    return [
        (title, QUIET, entry.gallery.read_thumbnail(entry.gallery.ids[row]))
        for title, row in zip(titles, rows.tolist(), strict=False)
    ]


def _fitted(text: str) -> str:
    """Return a text that fits into the picture's width, cut if need be."""
    font, room = _font(44), PREVIEW_SIZE[0] - 80
    if font.getlength(text[:200]) <= room and len(text) <= 200:
        return text
    kept = text[:200]
    while font.getlength(f"{kept}\u2026\u201d") > room:
        kept = kept[:-1]
    return f"{kept.rstrip()}\u2026\u201d"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _drawn() -> bytes:
    picture = Image.new("RGB", PREVIEW_SIZE, GROUND)
    lenses = two_lenses(300)
    picture.paste(lenses, (70, (PREVIEW_SIZE[1] - lenses.height) // 2))
    draw = ImageDraw.Draw(picture)
    draw.text((640, 190), "TwoLens", INK, _font(104))
    for row, line in enumerate(("Two ways to find a picture", "by words, side by side.")):
        draw.text((644, 330 + 52 * row), line, QUIET, _font(40))
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def two_lenses(height: int) -> Image.Image:
    """Draw the page's mark, two circles that overlap, on the ground's colour."""
    size = height * _FINER
    width = round(size * 1.6)
    circles = []
    for left, colour in ((0, CAPTIONS_COLOUR), (width - size, CLIP_COLOUR)):
        layer = Image.new("RGB", (width, size), GROUND)
        ImageDraw.Draw(layer).ellipse((left, 0, left + size - 1, size - 1), fill=colour)
        circles.append(layer)
    both = ImageChops.multiply(*circles)
    return both.resize((width // _FINER, height), Image.Resampling.LANCZOS)
