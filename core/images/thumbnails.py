"""Making an RGB picture smaller, and a thumbnail of it."""

from __future__ import annotations

import io

from PIL import Image


def reduced(
    image: Image.Image, longer_side_px: int, original: tuple[int, int] | None = None
) -> Image.Image:
    """Return a picture whose longer side is at most ``longer_side_px``, never an enlarged one.

    Args:
        image: Any picture.
        longer_side_px: Pixels.
        original: Width and height whose shape is kept, where the picture was decoded smaller.
    """
    width, height = original or image.size
    scale = min(1.0, longer_side_px / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def large_webp(image: Image.Image, longer_side_px: int) -> bytes:
    """Return a WebP to look at closely: the same picture always gives the same bytes.

    Method 2 at quality 82 gives pictures as good that are 2% smaller, and takes half as long again.
    """
    buffer = io.BytesIO()
    reduced(image, longer_side_px).save(buffer, "WEBP", quality=81, method=1)
    return buffer.getvalue()


def thumbnail_webp(image: Image.Image, longer_side_px: int = 320) -> bytes:
    """Return a small WebP of an RGB picture: the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    reduced(image, longer_side_px).save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()
