"""Small ICC profiles, and pictures in spaces wider than sRGB."""

from __future__ import annotations

import io
import struct
from itertools import product

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


INKS = ((0, 150, 210), (200, 20, 110), (250, 225, 30))
"""Of a press: its cyan, magenta and yellow in sRGB, each full and alone on white paper."""


def press() -> bytes:
    """A profile of CMYK whose inks are ``INKS``: a table of the colours of all full inks."""
    corners = Image.new("RGB", (16, 1))
    for place, amounts in enumerate(product((0, 1), repeat=4)):
        colour = [255.0] * 3
        for amount, ink in zip(amounts, (*INKS, (40, 40, 40)), strict=True):
            colour = [c * i / 255 if amount else c for c, i in zip(colour, ink, strict=True)]
        corners.putpixel((place, 0), tuple(map(round, colour)))
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = (ImageCms.applyTransform(corners, to_lab) or corners).tobytes()
    # Pillow keeps a and b as signed bytes, the profile with 128 added.
    table = bytes(value if at % 3 == 0 else value ^ 128 for at, value in enumerate(lab))
    straight = bytes(range(256))
    head = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0)
    head += struct.pack(">9i", *(0x10000 if at % 4 == 0 else 0 for at in range(9)))
    tags = {
        b"A2B0": head + 4 * straight + table + 3 * straight,
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 6) + b"press\0" + bytes(78),
    }
    place, body, entries = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        entries += struct.pack(">4sII", name, place + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI4s4s4s", place + len(body), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4s28x3i", 2026, 1, 1, 0, 0, 0, b"acsp", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
