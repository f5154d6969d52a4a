"""Decoding: every mode and format gives an upright RGB picture."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from core.errors import ImageError
from core.images.decode import WORKING_PX, decode
from core.images.thumbnails import thumbnail_webp
from tests.core.encoded_pictures import BLUE, LIMITS, RED, encoded, two_halves

MODES = {
    "1": ["PNG", "TIFF", "BMP", "GIF"],
    "L": ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"],
    "LA": ["PNG", "TIFF", "WEBP"],
    "P": ["PNG", "TIFF", "GIF", "BMP"],
    "RGB": ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "HEIF"],
    "RGBA": ["PNG", "WEBP", "AVIF", "TIFF"],
    "CMYK": ["JPEG", "TIFF"],
    "YCbCr": ["JPEG"],
    "LAB": ["TIFF"],
    "I;16": ["PNG", "TIFF"],
    "I": ["TIFF"],
    "F": ["TIFF"],
}
CASES = [(mode, kind) for mode, kinds in MODES.items() for kind in kinds]


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        from PIL import ImageCms

        return ImageCms.profileToProfile(
            image,
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(image.convert("L"))
        if mode == "I;16":
            return Image.fromarray(grey.astype(np.uint16) * 257)
        return Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    return image.convert(mode)


def left_and_right(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.asarray(image, dtype=float)
    quarter = pixels.shape[1] // 4
    return pixels[:, :quarter].mean((0, 1)), pixels[:, -quarter:].mean((0, 1))


@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_every_mode_and_format_becomes_rgb(mode, kind):
    decoded = decode(encoded(in_mode(two_halves(), mode), kind), "x", LIMITS)
    assert decoded.image.mode == "RGB"
    assert type(decoded.image) is Image.Image
    assert (decoded.width, decoded.height) == decoded.image.size == (64, 48)
    left, right = left_and_right(decoded.image)
    if mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LAB"):
        assert np.abs(left - RED).max() < 45
        assert np.abs(right - BLUE).max() < 45
    elif mode == "P":
        assert left[0] > left[2] + 100
        assert right[2] > right[0] + 100
    elif mode != "1":
        grey = np.asarray(two_halves().convert("L"), dtype=float)
        assert abs(left.mean() - grey[0, 0]) < 6
        assert abs(right.mean() - grey[0, -1]) < 6


@example(case=("CMYK", "JPEG"), width=9, height=128, working_px=16)
@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    working_px=st.integers(16, 96),
)
def test_size_is_bounded_and_shape_is_kept(case, width, height, working_px):
    mode, kind = case
    if kind == "HEIF":
        width, height = max(width, 16), max(height, 16)
    content = encoded(in_mode(Image.new("RGB", (width, height), RED), mode), kind)
    decoded = decode(content, "x", LIMITS, working_px)
    assert (decoded.width, decoded.height) == (width, height)
    scale = min(1.0, working_px / max(width, height))
    expected = (max(1, round(width * scale)), max(1, round(height * scale)))
    assert decoded.image.size == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = two_halves(80, 40)
    upright.paste((255, 255, 255), (0, 0, 80, 10))
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, kind, exif=exif), "x", LIMITS)
    assert (decoded.width, decoded.height) == (80, 40)
    found = np.asarray(decoded.image, dtype=float)
    assert np.abs(found - np.asarray(upright, dtype=float)).mean() < 12


def test_damaged_exif_leaves_a_good_picture_usable():
    content = encoded(two_halves(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    assert decode(content, "x", LIMITS).image.size == (64, 48)


def test_a_large_jpeg_is_reduced_and_keeps_its_true_size():
    decoded = decode(encoded(two_halves(2400, 1600), "JPEG"), "x", LIMITS)
    assert (decoded.width, decoded.height) == (2400, 1600)
    assert decoded.image.size == (WORKING_PX, round(WORKING_PX * 1600 / 2400))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_very_long_picture_keeps_at_least_one_pixel(kind):
    decoded = decode(encoded(Image.new("RGB", (5000, 1), RED), kind), "x", LIMITS)
    assert decoded.image.size == (WORKING_PX, 1)


def test_sixteen_bit_samples_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    picture = Image.fromarray(np.tile(ramp, (8, 1)))
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode(encoded(picture, kind), "x", LIMITS).image)[0, :, 0]
        assert np.abs(found.astype(int) - (ramp >> 8)).max() <= 1


def test_sixteen_bit_big_endian_tiff():
    ramp = np.tile(np.linspace(0, 65535, 64).astype(">u2"), (8, 1))
    picture = Image.frombytes("I;16B", (64, 8), ramp.tobytes())
    found = np.asarray(decode(encoded(picture, "TIFF"), "x", LIMITS).image)[0, :, 0]
    assert found[0] == 0
    assert found[-1] == 255
    assert (np.diff(found.astype(int)) >= 0).all()


def test_float_samples_with_nan_and_negatives_are_scaled():
    values = np.tile(np.linspace(-2, 2, 64, dtype=np.float32), (8, 1))
    values[0, 0] = np.nan
    found = np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), "x", LIMITS).image)
    assert found[1, 0, 0] == 0
    assert found[1, -1, 0] == 255


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.paste((200, 30, 30, 255), (0, 0, 10, 20))
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 200, 30, 30])
    palette.paste(1, (0, 0, 10, 20))
    grey = Image.new("LA", (20, 20), (0, 0))
    contents = {
        "rgba": encoded(clear, "PNG"),
        "webp": encoded(clear, "WEBP", lossless=True),
        "palette": encoded(palette, "PNG", transparency=0),
        "gif": encoded(palette, "GIF", transparency=0),
        "palette bytes": encoded(palette, "PNG", transparency=b"\0\xff"),
        "rgb key": encoded(clear.convert("RGB"), "PNG", transparency=(0, 0, 0)),
        "grey": encoded(grey, "PNG"),
    }
    for name, content in contents.items():
        pixel = decode(content, name, LIMITS).image.getpixel((15, 10))
        assert pixel == (255, 255, 255), name
        if name != "grey":
            assert decode(content, name, LIMITS).image.getpixel((5, 10)) == (200, 30, 30), name


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_first_frame_of_several_with_a_note(kind):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    decoded = decode(content, "x", LIMITS)
    assert decoded.notes == ("shows its first frame of 3",)
    red, green, _ = decoded.image.getpixel((20, 20))
    assert red > 230
    assert green < 25


def test_a_single_picture_has_no_note():
    assert decode(encoded(two_halves(), "GIF"), "x", LIMITS).notes == ()
    assert decode(encoded(two_halves(), "HEIF"), "x", LIMITS).notes == ()


def test_damage_in_a_later_frame_does_not_harm_the_first():
    noise = np.random.default_rng(0).integers(0, 255, (3, 60, 60, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    decoded = decode(content[: len(content) * 4 // 5], "x", LIMITS)
    assert decoded.image.size == (60, 60)
    assert decoded.notes


def test_a_path_and_its_bytes_give_the_same(tmp_path):
    content = encoded(two_halves(), "PNG")
    (tmp_path / "wrong.extension.txt").write_bytes(content)
    by_path = decode(tmp_path / "wrong.extension.txt", "x", LIMITS)
    by_bytes = decode(content, "x", LIMITS)
    assert by_path.sha256 == by_bytes.sha256
    assert by_path.image.tobytes() == by_bytes.image.tobytes()


def test_thumbnails_are_deterministic_small_and_never_enlarged():
    picture = two_halves(600, 300)
    once = thumbnail_webp(picture, 320)
    assert once == thumbnail_webp(picture.copy(), 320)
    assert Image.open(io.BytesIO(once)).size == (320, 160)
    assert Image.open(io.BytesIO(once)).format == "WEBP"
    assert Image.open(io.BytesIO(thumbnail_webp(two_halves(40, 20)))).size == (40, 20)


def test_threads_agree_and_pillows_globals_stay():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    contents = [encoded(two_halves(300, 200), kind) for kind in ("JPEG", "PNG", "WEBP", "HEIF")]
    expected = [decode(content, "x", LIMITS).image.tobytes() for content in contents]
    wrong: list[int] = []

    def work():
        for _ in range(5):
            for i, content in enumerate(contents):
                if decode(content, "x", LIMITS).image.tobytes() != expected[i]:
                    wrong.append(i)
                try:
                    decode(content[:100], "x", LIMITS)
                except ImageError:
                    continue
                wrong.append(-1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def test_real_photos(shared_data):
    for path in sorted((shared_data / "coco_cc").glob("*.jpg"))[:10]:
        decoded = decode(path, path.name, LIMITS)
        with Image.open(path) as image:
            assert (decoded.width, decoded.height) == image.size
