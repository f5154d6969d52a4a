"""Small ICC profiles, and pictures in spaces wider than sRGB."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from core.images.colour import coded_profile, measured_profile

TRUE = ((200, 60, 50), (60, 160, 70), (50, 80, 190))
ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PROPHOTO = (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)


def display_p3() -> bytes:
    return coded_profile(12, 13) or b""


def adobe_rgb() -> bytes:
    return measured_profile(2.19921875, ADOBE_RGB) or b""


def prophoto() -> bytes:
    return measured_profile(1.8, PROPHOTO) or b""


def three_colours() -> Image.Image:
    """Three squares of sRGB's colours ``TRUE``."""
    picture = Image.new("RGB", (120, 40))
    for i, colour in enumerate(TRUE):
        picture.paste(colour, (40 * i, 0, 40 * i + 40, 40))
    return picture


def stored_in(profile: bytes) -> Image.Image:
    """The same colours as another space holds them; the profile is not attached."""
    stored = ImageCms.profileToProfile(
        three_colours(),
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
    )
    stored.info.pop("icc_profile", None)
    return stored


def grey_profile(gamma: float) -> bytes:
    """A profile of grey with a curve of its own, made of an RGB one."""
    content = bytearray(measured_profile(gamma, None) or b"")
    content[16:20] = b"GRAY"
    return bytes(content.replace(b"rTRC", b"kTRC"))
