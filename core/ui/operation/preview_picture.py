"""The picture that stands beside a link to the page: drawn here, so that nobody's is needed."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image, ImageChops, ImageDraw, ImageFont
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core.ui.operation.link_preview import PREVIEW_PATH, PREVIEW_SIZE

GROUND, INK, QUIET = "#fbfaf8", "#1c1917", "#57534e"
CAPTIONS_COLOUR, CLIP_COLOUR = "#a53f14", "#0f5c8f"
_FINER = 2
"""Circles are drawn larger and scaled down, for Pillow draws their edges in steps."""


def preview_route() -> Route:
    """Return the route of the picture."""

    async def preview(_: Request) -> Response:
        content = await run_in_threadpool(_drawn)
        return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=86400"})

    return Route(PREVIEW_PATH, preview, methods=["GET", "HEAD"])


@cache
def _drawn() -> bytes:
    picture = Image.new("RGB", PREVIEW_SIZE, GROUND)
    lenses = two_lenses(300)
    picture.paste(lenses, (70, (PREVIEW_SIZE[1] - lenses.height) // 2))
    draw = ImageDraw.Draw(picture)
    draw.text((640, 190), "TwoLens", INK, ImageFont.load_default(104))
    for row, line in enumerate(("Two ways to find a picture", "by words, side by side.")):
        draw.text((644, 330 + 52 * row), line, QUIET, ImageFont.load_default(40))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
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
