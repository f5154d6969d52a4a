"""Decoding hostile bytes: one sentence, little memory, no crash."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import ImageError
from core.images.decode import WORKING_PX, DecodeLimits, decode
from tests.core.encoded_pictures import LIMITS, encoded, refusal, two_halves


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP"])
def test_half_a_file_is_called_truncated(kind):
    noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    assert refusal(content[: len(content) // 2]).reason == "is truncated"


def test_reasons_are_told_apart(tmp_path):
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    assert refusal(b"").reason == "is empty (0 bytes)"
    assert "SVG" in refusal(svg).reason
    assert "not an image" in refusal(b"Dear diary, today I renamed this to .jpg").reason
    assert "not an image" in refusal(b"%PDF-1.7 ...").reason
    assert "unpack it" in refusal(b"PK\x03\x04 takeout.zip").reason
    assert "5.0 MB" in refusal(b"\xff" * 5_000_001).reason
    assert "cannot be read" in str(_refused_path(tmp_path / "absent.jpg"))
    assert "not a regular file" in str(_refused_path(tmp_path))
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a regular file" in str(_refused_path(tmp_path / "pipe.jpg"))
    (tmp_path / "big.jpg").write_bytes(bytes(5_000_001))
    assert "5.0 MB" in str(_refused_path(tmp_path / "big.jpg"))
    png = bytearray(encoded(two_halves(), "PNG"))
    png[60] ^= 0xFF
    assert refusal(bytes(png)).reason == "is damaged and cannot be decoded"


def _refused_path(path):
    with pytest.raises(ImageError) as caught:
        decode(path, path.name, LIMITS)
    assert str(path.parent) not in str(caught.value)
    return caught.value


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(3000)))
        + chunk(b"IEND", b"")
    )


def gif_header(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
    return screen + frame


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(64)


def webp_header(width: int, height: int) -> bytes:
    content = bytearray(encoded(two_halves(), "WEBP", lossless=True))
    bits = int.from_bytes(content[21:25], "little") & ~((1 << 28) - 1)
    content[21:25] = (bits | (width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(content)


BOMBS = {
    "png": png_header(50_000, 50_000),
    "gif": gif_header(50_000, 50_000),
    "bmp": bmp_header(50_000, 50_000),
    "webp": webp_header(16_383, 16_383),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_from_its_header(kind):
    assert len(BOMBS[kind]) < 5_000
    error = refusal(BOMBS[kind], DecodeLimits(5_000_000, 100_000_000))
    assert "over the limit of 100.0 megapixels" in error.reason
    if kind != "webp":
        assert "50,000 x 50,000" in error.reason


def test_bombs_take_no_memory():
    script = """
import resource, sys
sys.path.insert(0, ".")
from core.images.sandbox.decoder_pool import DecoderPool
from core.images.recognise import RefusedError
from tests.core.images.test_hostile_images import BOMBS, DecodeLimits, encoded, two_halves

def children_mb():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024

limits = DecodeLimits(5_000_000, 100_000_000)
for bombs in ([], BOMBS.values()):
    pool = DecoderPool(1, 3_000_000_000)
    pool.decode(encoded(two_halves(), "HEIF"), limits, 640)
    for bomb in bombs:
        try:
            pool.decode(bomb, limits, 640)
        except RefusedError:
            continue
        raise SystemExit("accepted")
    pool.close()
    print(children_mb())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    without, with_bombs = map(float, done.stdout.split())
    assert with_bombs - without < 60


def test_the_limit_is_ours_and_not_pillows(recwarn):
    content = encoded(Image.new("1", (12_000, 8_000)), "PNG")
    assert decode(content, "x", DecodeLimits(5_000_000, 96_000_000)).width == 12_000
    assert "11" not in refusal(content, DecodeLimits(5_000_000, 95_000_000)).file_name
    assert not recwarn.list


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP"])
def test_mutated_bytes_never_crash(kind):
    generator = random.Random(kind)
    good = encoded(two_halves(), kind)
    for _ in range(150):
        content = bytearray(good)
        for _ in range(generator.choice([1, 2, 8, 40])):
            content[generator.randrange(len(content))] = generator.randrange(256)
        if generator.random() < 0.3:
            del content[generator.randrange(len(content)) :]
        try:
            decoded = decode(bytes(content), "fuzz", LIMITS)
        except ImageError as error:
            assert error.reason
        else:
            assert decoded.image.mode == "RGB"
            assert max(decoded.image.size) <= WORKING_PX


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"BM"]))
def test_arbitrary_bytes_never_crash(tail, head):
    with pytest.raises(ImageError):
        decode(head + tail, "noise", LIMITS)
