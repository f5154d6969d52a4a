"""Small pictures in any format, and what decoding says of bytes that it refuses."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image
from pillow_heif import from_pillow

from core.errors import ImageError
from core.images.decode import DecodeLimits, decode

LIMITS = DecodeLimits(max_bytes=5_000_000, max_pixels=4_000_000)
RED, BLUE = (200, 30, 30), (20, 40, 220)


def two_halves(width=64, height=48) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    if kind == "HEIF":
        from_pillow(image).save(buffer, quality=90, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def slow_bmp(width=4000, height=3000) -> bytes:
    """A BMP of runs of one pixel, which Pillow decodes in Python, pixel by pixel."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + info + bytes(1024)
    return head + b"\1\0" * (width * height)


def refusal(content: bytes, limits=LIMITS, name="photo.jpg") -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(content, name, limits)
    assert str(caught.value) == f"{name} {caught.value.reason}."
    return caught.value
