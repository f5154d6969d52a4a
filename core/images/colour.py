"""Colours of a picture brought to sRGB, through the profile that the file carries or names.

Models were trained on sRGB and a browser shows a thumbnail without a profile as sRGB, so pixels
of a wider space must be converted, or every recent phone's photos look dull.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, ImageCms

if TYPE_CHECKING:
    import numpy as np

LONGEST_PROFILE = 8_000_000
"""Bytes; profiles of printers reach two megabytes."""

_Chromaticity = tuple[float, float]
_D65: _Chromaticity = (0.3127, 0.3290)
_SRGB_PRIMARIES: tuple[_Chromaticity, ...] = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
# Of ITU-T H.273; code 2 is "unspecified". The curves 1, 6, 14 and 15 are shown as sRGB's.
_CODED_PRIMARIES = {
    1: _SRGB_PRIMARIES,
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_CODED_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_CODED_LIKE_SRGB = {1, 2, 6, 13, 14, 15}
_ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
_ADOBE_GAMMA = 2.19921875
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_EXIF_INTEROPERABILITY = 0xA005
# A profile whose colours are off by no more than this is sRGB, whatever it calls itself.
_NO_DIFFERENCE = 1


class ProfileError(Exception):
    """A colour profile that cannot be used for its picture."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert a picture through its ICC profile.

    Args:
        image: L, RGB, RGBA or CMYK.
        profile: As the file holds it.

    Returns:
        The picture in sRGB: RGB, or RGBA if it was. The same picture if it was in sRGB already.

    Raises:
        ProfileError: The profile is broken, or is for pictures of another kind.
    """
    space = _space(profile)
    if image.mode == "L" and space == "RGB":
        image = image.convert("RGB")
    if image.mode == "RGBA" and space == "GRAY":
        converted = to_srgb(image.convert("RGB").convert("L"), profile)
        converted.putalpha(image.getchannel("A"))
        return converted
    transform = _transform(profile, image.mode)
    return image if transform is None else _applied(image, transform)


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture in CIE Lab."""
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    return _applied(image, transform)


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """Return an ICC profile for code points of ITU-T H.273, as PNG, AVIF and HEIC have them.

    Returns:
        None where the codes say sRGB, nothing, or a space that is not converted here.
    """
    corners = _CODED_PRIMARIES.get(primaries)
    gamma = _CODED_GAMMAS.get(transfer)
    if corners is None or (gamma is None and transfer not in _CODED_LIKE_SRGB):
        return None
    if corners == _SRGB_PRIMARIES and gamma is None:
        return None
    return _matrix_profile(corners, _D65, gamma)


def measured_profile(gamma: float | None, chromaticities: tuple[float, ...] | None) -> bytes | None:
    """Return an ICC profile for PNG's gAMA and cHRM.

    Args:
        gamma: Exponent that decodes samples, e.g. 2.2; None is sRGB's curve.
        chromaticities: x and y of white, red, green and blue; None is sRGB's.
    """
    if gamma is None and chromaticities is None:
        return None
    if gamma is not None and not 0.1 <= gamma <= 10:
        return None
    white, corners = _D65, _SRGB_PRIMARIES
    if chromaticities is not None:
        pairs = [(chromaticities[i], chromaticities[i + 1]) for i in range(0, 8, 2)]
        if any(y <= 0 or x < 0 or x + y > 1.001 for x, y in pairs):
            return None
        white, corners = pairs[0], tuple(pairs[1:])
    return _matrix_profile(corners, white, gamma)


def exif_profile(exif: Image.Exif) -> bytes | None:
    """Return the profile of Adobe RGB where a camera says so in EXIF alone, as many do."""
    try:
        named = exif.get_ifd(_EXIF_INTEROPERABILITY).get(1)
    except Exception:  # EXIF is as hostile as all else
        return None
    return _matrix_profile(_ADOBE_RGB, _D65, _ADOBE_GAMMA) if named == "R03" else None


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    try:
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, ValueError) as error:
        raise ProfileError from error
    if converted is None:  # which it is only where a picture is converted in place
        raise ProfileError
    return converted


@lru_cache(maxsize=16)
def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    if len(profile) > LONGEST_PROFILE:
        raise ProfileError
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError) as error:
        raise ProfileError from error


def _space(profile: bytes) -> str:
    return str(_opened(profile).profile.xcolor_space).strip()


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform, None if it would change nothing."""
    expected = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}[mode]
    opened = _opened(profile)
    if _space(profile) != expected:
        raise ProfileError
    try:
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode in ("RGB", "RGBA"):
            cube = _colour_cube().convert(mode)
            if _furthest(cube, _applied(cube, transform)) <= _NO_DIFFERENCE:
                return None
    except (ImageCms.PyCMSError, ValueError) as error:
        raise ProfileError from error
    return transform


def _colour_cube() -> Image.Image:
    levels = range(0, 256, 51)
    colours = bytes(level for r in levels for g in levels for b in levels for level in (r, g, b))
    return Image.frombytes("RGB", (len(colours) // 3, 1), colours)


def _furthest(one: Image.Image, other: Image.Image) -> int:
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


@lru_cache(maxsize=16)
def _matrix_profile(
    corners: tuple[_Chromaticity, ...], white: _Chromaticity, gamma: float | None
) -> bytes | None:
    """Return an ICC profile of three primaries and one curve; None where they span no space."""
    import numpy as np

    def xyz(at: _Chromaticity) -> np.ndarray:
        return np.array([at[0] / at[1], 1.0, (1 - at[0] - at[1]) / at[1]])

    # Bradford's adaptation from the picture's white to that of all ICC profiles.
    bradford = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    d50 = np.array([0.9642, 1.0, 0.8249])
    try:
        primaries = np.stack([xyz(corner) for corner in corners], axis=1)
        primaries = primaries * np.linalg.solve(primaries, xyz(white))
        gains = (bradford @ d50) / (bradford @ xyz(white))
        adapted = np.linalg.solve(bradford, gains[:, None] * (bradford @ primaries))
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100:
        return None
    curve = _curve(*((gamma,) if gamma is not None else _SRGB_CURVE))
    tags = {b"wtpt": _xyz_tag(d50), b"desc": _text(b"desc"), b"cprt": _text(b"text")}
    for i, colour in enumerate("rgb"):
        tags[f"{colour}XYZ".encode()] = _xyz_tag(adapted[:, i])
        tags[f"{colour}TRC".encode()] = curve
    return _icc(tags)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*map(float, values))


def _curve(*parameters: float) -> bytes:
    kind = 0 if len(parameters) == 1 else 3
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(*parameters)


def _text(kind: bytes) -> bytes:
    if kind == b"text":
        return b"text\0\0\0\0none\0\0\0\0"
    return b"desc\0\0\0\0" + struct.pack(">I", 2) + b"-\0" + bytes(78)


def _icc(tags: dict[bytes, bytes]) -> bytes:
    at = 132 + 12 * len(tags)
    entries, body = b"", b""
    for name, value in tags.items():
        entries += name + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = at + len(body)
    head = struct.pack(">I4xI4s4s4s", size, 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
