"""What a viewer shows is taken, with a remark where one is due; a refusal says what is true."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.images.decode import DecodeLimits, decode
from tests.core.encoded_pictures import LIMITS, RED, encoded, refusal, two_halves
from tests.core.images.test_colour import chunk, png_with

LIMITS_OF_LARGE = DecodeLimits(5_000_000, 8_000_000)
NO_END_MARKER = "lacks its end marker; all of the picture is there"


def noise(width=160, height=120, seed=1) -> Image.Image:
    low = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(low).resize((width, height))


JPEGS = {
    "usual": {},
    "progressive": {"progressive": True},
    "full colour": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("filling", [b"", b"\xff", b"\0", bytes(5000)])
@pytest.mark.parametrize("size", [(160, 120), (161, 119), (1500, 1000)])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_marker_is_taken_with_a_note(name, size, filling):
    content = encoded(noise(*size), "JPEG", **JPEGS[name])
    whole = decode(content, "x", LIMITS_OF_LARGE)
    decoded = decode(content[:-2] + filling, "x", LIMITS_OF_LARGE)
    assert decoded.notes == (NO_END_MARKER,)
    assert (decoded.width, decoded.height) == size
    assert decoded.image.tobytes() == whole.image.tobytes()


@pytest.mark.parametrize("filling", [b"", bytes(20_000)])
@pytest.mark.parametrize("kept", [0.4, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("name", ["usual", "restarts"])
def test_a_jpeg_that_lacks_rows_is_refused_as_truncated(name, kept, filling):
    content = encoded(noise(600, 480), "JPEG", quality=90, **JPEGS[name])
    cut = content[: round(len(content) * kept)] + filling
    assert refusal(cut).reason == "is truncated"


def test_side_chunks_of_a_png_do_no_harm():
    picture = noise()
    side = {
        "a big text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 420_000)),
        "many texts": chunk(b"tEXt", b"a\0b") * 2000,
        "a bad checksum": chunk(b"tEXt", b"a\0b")[:-4] + bytes(4),
        "a bad time": chunk(b"tIME", b"\0")[:-4] + b"abcd",
        "a broken text": chunk(b"zTXt", b"a\0\0not compressed"),
        "a transparency of no colour": chunk(b"tRNS", b"a"),
        "a number of frames that is none": chunk(b"acTL", b"abcdefgh")[:-4] + bytes(4),
        "damaged EXIF": chunk(b"eXIf", b"II*\0junk")[:-4] + bytes(4),
        "an unknown one": chunk(b"zzZz", bytes(100_000)),
    }
    for name, value in side.items():
        decoded = decode(png_with(picture, value), name, LIMITS)
        assert decoded.notes == ()
        assert (np.asarray(decoded.image) == np.asarray(picture)).all(), name
    profiles = {
        "a big one": chunk(b"iCCP", b"printer\0\0" + zlib.compress(bytes(2_100_000))),
        "a bad checksum": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(200)))[:-4] + bytes(4),
        "an endless one": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(90_000_000))),
    }
    for name, value in profiles.items():
        decoded = decode(png_with(picture, value), name, LIMITS)
        assert [note[:20] for note in decoded.notes] == ["has a colour profile"]
        assert (np.asarray(decoded.image) == np.asarray(picture)).all(), name


def test_a_png_of_imagemagick_is_turned_by_the_exif_in_its_text():
    exif = Image.Exif()
    exif[0x0112] = 6
    lines = exif.tobytes().hex()
    text = f"Raw profile type exif\0\nexif\n{len(lines) // 2:8}\n{lines}\n".encode("latin-1")
    content = png_with(two_halves(80, 40), chunk(b"tEXt", text))
    assert decode(content, "x", LIMITS).image.size == (40, 80)


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def halves(dtype, top, channels=3) -> np.ndarray:
    """Left half a quarter of the range, right half all of it, in each channel."""
    samples = np.full((48, 64, channels), top, dtype)
    samples[:, :32] = np.asarray(top / 4, dtype)
    return samples


OTHER_DEPTHS = {
    "float32 RGB": (halves(np.float32, 1), {"photometric": "rgb"}),
    "float64 RGB": (halves(np.float64, 1), {"photometric": "rgb"}),
    "float64 grey": (halves(np.float64, 1, 1)[:, :, 0], {"photometric": "minisblack"}),
    "float16 RGB": (halves(np.float16, 1), {"photometric": "rgb"}),
    "uint32 RGB": (halves(np.uint32, 65_535), {"photometric": "rgb"}),
    "planar float": (
        np.moveaxis(halves(np.float32, 1), 2, 0),
        {"photometric": "rgb", "planarconfig": "separate"},
    ),
    "deflated float": (halves(np.float32, 1), {"photometric": "rgb", "compression": "zlib"}),
    "tiled float": (halves(np.float32, 1), {"photometric": "rgb", "tile": (16, 16)}),
}


@pytest.mark.parametrize("name", OTHER_DEPTHS)
def test_tiffs_of_other_depths_are_read(name):
    samples, options = OTHER_DEPTHS[name]
    decoded = decode(tiff(samples, **options), "x", LIMITS)
    assert (decoded.width, decoded.height) == (64, 48)
    assert all(abs(value - 64) <= 1 for value in decoded.image.getpixel((8, 20)))
    assert decoded.image.getpixel((56, 20)) == (255, 255, 255)


def test_sixteen_bit_grey_with_alpha_is_laid_on_white():
    samples = np.zeros((48, 64, 2), np.uint16)
    samples[:, :32] = (16_384, 65_535)
    content = tiff(samples, photometric="minisblack", extrasamples=["unassalpha"])
    image = decode(content, "x", LIMITS).image
    assert image.getpixel((8, 20)) == (64, 64, 64)
    assert image.getpixel((56, 20)) == (255, 255, 255)


def test_a_tiff_that_is_not_read_is_not_called_damaged():
    content = tiff(np.zeros((48, 64), np.complex64), photometric="minisblack")
    reason = refusal(content, name="scan.tif").reason
    assert reason.startswith("is a TIFF of a kind that is not read here (complex64 samples")
    reason = refusal(encoded(noise().convert("YCbCr"), "TIFF"), name="scan.tif").reason
    assert reason.startswith("is a TIFF of a kind that is not read here (YCbCr samples")
    truncated = tiff(OTHER_DEPTHS["float32 RGB"][0], photometric="rgb")[:9000]
    assert "not read here" not in refusal(truncated).reason


def directory(entries: list[tuple[int, int, int, int]], following=0) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def dng(preview: bytes | None, orientation=1) -> bytes:
    """A raw file: 16 x 12 pixels as its first page, the sensor's samples, perhaps a JPEG."""
    small = np.full((12, 16, 3), RED, np.uint8).tobytes()
    sensor = bytes(64 * 48 * 2)
    pages = 2 if preview else 1
    first = 8 + 2 + 12 * 11 + 4
    bits = first + 0
    subs = bits + 6
    small_at = subs + 4 * pages
    sensor_at = small_at + len(small)
    raw_page_at = sensor_at + len(sensor)
    raw_page = directory(
        [(254, 4, 1, 0), (256, 4, 1, 64), (257, 4, 1, 48), (258, 3, 1, 16), (259, 3, 1, 1)]
        + [(262, 3, 1, 32803), (273, 4, 1, sensor_at), (277, 3, 1, 1), (278, 4, 1, 48)]
        + [(279, 4, 1, len(sensor))]
    )
    jpeg_page_at = raw_page_at + len(raw_page)
    jpeg_page = b""
    if preview:
        entries = [(254, 4, 1, 1), (259, 3, 1, 7), (262, 3, 1, 6), (279, 4, 1, len(preview))]
        jpeg_at = jpeg_page_at + len(directory([*entries, (273, 4, 1, 0)]))
        jpeg_page = directory([*entries, (273, 4, 1, jpeg_at)])
    sub_value = subs if pages > 1 else raw_page_at
    head = directory(
        [(254, 4, 1, 1), (256, 4, 1, 16), (257, 4, 1, 12), (258, 3, 3, bits), (259, 3, 1, 1)]
        + [(262, 3, 1, 2), (273, 4, 1, small_at), (274, 3, 1, orientation), (277, 3, 1, 3)]
        + [(330, 4, pages, sub_value), (50706, 1, 4, 1)]
    )
    content = b"II*\0" + struct.pack("<I", 8) + head + struct.pack("<3H", 8, 8, 8)
    content += struct.pack("<2I", raw_page_at, jpeg_page_at)[: 4 * pages]
    return content + small + sensor + raw_page + jpeg_page + (preview or b"")


def test_of_a_raw_file_the_largest_preview_is_shown_with_a_note():
    decoded = decode(dng(encoded(two_halves(320, 240), "JPEG", quality=95)), "x.dng", LIMITS)
    assert (decoded.width, decoded.height) == (320, 240)
    assert decoded.notes == ("is a camera's raw file; its preview of 320 x 240 is shown",)
    assert np.abs(np.array(decoded.image.getpixel((10, 100))) - RED).max() < 8
    turned = decode(dng(encoded(two_halves(320, 240), "JPEG"), orientation=6), "x.dng", LIMITS)
    assert turned.image.size == (240, 320)


def test_of_a_raw_file_without_a_jpeg_its_small_page_is_shown_with_a_note():
    decoded = decode(dng(None), "x.dng", LIMITS)
    assert decoded.image.size == (16, 12)
    assert decoded.notes == ("is a camera's raw file; its preview of 16 x 12 is shown",)


def without_turning(content: bytes) -> bytes:
    """Rename the properties that turn a picture, so that only EXIF says how it was held."""
    return content.replace(b"irot", b"free").replace(b"imir", b"free")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_upright_by_its_own_property_or_else_by_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(two_halves(80, 40), "HEIF", exif=exif.tobytes())
    by_property = decode(content, "x", LIMITS).image
    by_exif = decode(without_turning(content), "x", LIMITS).image
    assert by_property.size == by_exif.size == ((40, 80) if orientation >= 5 else (80, 40))
    difference = np.asarray(by_property, dtype=float) - np.asarray(by_exif, dtype=float)
    assert np.abs(difference).mean() < 3


def test_the_sample_of_heic_has_a_property_that_turns():
    # Otherwise the test above would compare a file with itself.
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(two_halves(80, 40), "HEIF", exif=exif.tobytes())
    assert without_turning(content) != content
