"""Colours arrive in sRGB, whichever way the file says what they are."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from core.images.colour import coded_profile
from core.images.decode import decode
from tests.core.encoded_pictures import LIMITS, encoded
from tests.core.images.profiles import (
    ADOBE_RGB,
    INKS,
    TRUE,
    adobe_rgb,
    display_p3,
    grey_profile,
    press,
    prophoto,
    stored_in,
    three_colours,
)

BROKEN = "has a colour profile that cannot be read, and is taken as sRGB"


def colours(content: bytes) -> np.ndarray:
    image = decode(content, "x", LIMITS).image
    return np.array([image.getpixel((40 * i + 20, 20)) for i in range(3)], dtype=int)


def assert_true(content: bytes, within=3) -> None:
    assert np.abs(colours(content) - TRUE).max() <= within
    assert decode(content, "x", LIMITS).notes == ()


@pytest.mark.parametrize("profile", [display_p3, adobe_rgb, prophoto])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF"])
def test_an_embedded_profile_is_converted_to_srgb(kind, profile):
    stored = stored_in(profile())
    assert np.abs(np.array(stored.getpixel((20, 20)), dtype=int) - TRUE[0]).max() > 10
    quality = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    quality["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}
    content = encoded(stored, kind, icc_profile=profile(), **quality.get(kind, {}))
    assert_true(content, within=6 if kind in ("AVIF", "HEIF") else 3)


def test_transparency_is_kept_through_a_profile():
    stored = stored_in(display_p3()).convert("RGBA")
    stored.paste((0, 0, 0, 0), (0, 0, 120, 10))
    content = encoded(stored, "PNG", icc_profile=display_p3())
    assert decode(content, "x", LIMITS).image.getpixel((20, 5)) == (255, 255, 255)
    assert_true(content)


def test_srgb_in_its_own_profile_is_left_alone():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), "PNG", icc_profile=profile)
    assert (np.asarray(decode(content, "x", LIMITS).image) == noise).all()


def test_grey_goes_through_a_profile_of_grey_or_of_colours():
    grey = Image.new("L", (120, 40), 128)
    linear = decode(encoded(grey, "PNG", icc_profile=grey_profile(1.0)), "x", LIMITS)
    assert abs(linear.image.getpixel((20, 20))[0] - 188) <= 2
    assert linear.notes == ()
    see_through = decode(
        encoded(grey.convert("LA"), "PNG", icc_profile=grey_profile(1.0)), "x", LIMITS
    )
    assert abs(see_through.image.getpixel((20, 20))[0] - 188) <= 2
    coloured = decode(encoded(grey, "JPEG", icc_profile=adobe_rgb()), "x", LIMITS)
    assert max(coloured.image.getpixel((20, 20))) - min(coloured.image.getpixel((20, 20))) <= 1
    assert coloured.notes == ()


@pytest.mark.parametrize(
    "profile", [b"no profile at all", display_p3()[:200], grey_profile(2.2), b"\0" * 3000]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_broken_profile_is_ignored_with_a_note(kind, profile):
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(three_colours(), kind, icc_profile=profile, **options), "x", LIMITS)
    assert decoded.notes == (BROKEN,)
    assert np.abs(np.array(decoded.image.getpixel((20, 20)), dtype=int) - TRUE[0]).max() <= 4


def test_a_profile_of_another_kind_of_picture_is_ignored_with_a_note():
    cmyk = three_colours().convert("CMYK")
    decoded = decode(encoded(cmyk, "JPEG", quality=95, icc_profile=display_p3()), "x", LIMITS)
    plain = decode(encoded(cmyk, "JPEG", quality=95), "x", LIMITS)
    assert decoded.notes == (BROKEN,)
    assert decoded.image.tobytes() == plain.image.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_press_s_inks_go_through_their_profile(kind):
    printed = Image.new("CMYK", (160, 40))
    for place, amounts in enumerate(np.eye(3, 4, dtype=int) * 255):
        printed.paste(tuple(map(int, amounts)), (40 * place, 0, 40 * place + 40, 40))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    decoded = decode(encoded(printed, kind, icc_profile=press(), **options), "x", LIMITS)
    assert decoded.notes == ()
    for place, colour in enumerate((*INKS, (255, 255, 255))):
        found = decoded.image.getpixel((40 * place + 20, 20))
        assert np.abs(np.array(found, dtype=int) - colour).max() <= 4, (place, found)
    plain = decode(encoded(printed, kind, **options), "x", LIMITS).image.getpixel((20, 20))
    assert np.abs(np.array(plain, dtype=int) - INKS[0]).max() > 30


def chunk(name: bytes, value: bytes) -> bytes:
    return (
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
    )


def png_with(picture: Image.Image, *chunks: bytes) -> bytes:
    content = encoded(picture, "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


def test_png_says_its_colours_in_other_chunks():
    gamma = chunk(b"gAMA", struct.pack(">I", round(100_000 / 2.19921875)))
    corners = chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in ADOBE_RGB)))
    assert_true(png_with(stored_in(adobe_rgb()), gamma, corners))
    assert_true(png_with(stored_in(display_p3()), chunk(b"cICP", bytes((12, 13, 0, 1)))))
    # The chunk sRGB overrules both; nonsense changes nothing.
    assert_true(png_with(three_colours(), chunk(b"sRGB", b"\0"), gamma, corners))
    assert_true(png_with(three_colours(), chunk(b"cHRM", bytes(32)), chunk(b"gAMA", bytes(4))))
    assert_true(png_with(three_colours(), chunk(b"cHRM", b"\xff" * 32)))


def test_a_camera_says_adobe_rgb_in_exif_alone():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    exif.get_ifd(0x8769)[0xA001] = 65535
    content = encoded(stored_in(adobe_rgb()), "JPEG", quality=100, subsampling=0, exif=exif)
    assert_true(content)


def test_heic_and_avif_say_their_colours_in_a_code():
    codes = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
    stored = stored_in(display_p3())
    content = encoded(stored, "HEIF", full_range_flag=1, save_nclx_profile=True, **codes)
    assert_true(content, within=6)
    avif = encoded(stored, "AVIF", quality=100, subsampling="4:4:4")
    at = avif.index(b"colrnclx") + 8
    assert_true(avif[:at] + struct.pack(">H", 12) + avif[at + 2 :])


def test_codes_that_need_no_conversion():
    assert coded_profile(1, 13) is None
    assert coded_profile(2, 2) is None
    assert coded_profile(9, 16) is None
