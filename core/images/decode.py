"""The only place that decodes: any file in, an upright RGB picture of bounded size out.

Hostile bytes are expected. The format is recognised by content (never by the file's name), the
pixel limit is checked on the header before a pixel is decoded, and whatever a decoder raises
becomes one :class:`~core.errors.ImageError`. Nothing here changes Pillow's global settings, so
any number of threads may decode at once.
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageCms, ImageFile

from core.errors import ImageError

if TYPE_CHECKING:
    from core.config import Settings

WORKING_PX = 640
"""Longer side of a decoded picture: more than any model or thumbnail here looks at."""

_READABLE = "JPEG, PNG, WebP, AVIF, HEIC, TIFF, GIF or BMP"
_DAMAGED = "is damaged and cannot be decoded"
_TRUNCATED = "is truncated"
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS |= {b"mif1", b"msf1"}
_UPRIGHTED_BY_DECODER = {"TIFF", "HEIF"}
_EXIF_ORIENTATION = 0x0112
# Beyond this, walking every frame header of a hostile GIF or TIFF would take seconds.
_MAX_BYTES_TO_COUNT_FRAMES = 16_000_000
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is refused.

    Attributes:
        max_bytes: Largest encoded file.
        max_pixels: Most pixels (width x height).
    """

    max_bytes: int
    max_pixels: int

    @classmethod
    def of(cls, settings: Settings) -> DecodeLimits:
        """Take the two limits from the settings."""
        return cls(settings.max_image_bytes, settings.max_image_pixels)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture, ready for thumbnails and models.

    Attributes:
        image: RGB, upright, longer side at most the ``working_px`` asked for.
        sha256: Hex digest of the encoded bytes.
        width: Pixels of the original, upright.
        height: Pixels of the original, upright.
        notes: What a reader should know, e.g. ``"first frame of 12"``.
    """

    image: Image.Image
    sha256: str
    width: int
    height: int
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What the picture is called everywhere: the first 16 hex digits of ``sha256``."""
        return self.sha256[:16]


def decode(
    source: Path | bytes, file_name: str, limits: DecodeLimits, working_px: int = WORKING_PX
) -> DecodedImage:
    """Decode one file into an upright RGB picture.

    Palettes, grey, CMYK and Lab become RGB; 16-bit and float samples are scaled, not clipped;
    transparency is laid on white. Of an animation or a multi-page file the first frame is taken.

    Args:
        source: A file, or its content.
        file_name: Name for the error, as the file's owner knows it.
        limits: What to refuse.
        working_px: Longest side wanted; larger pictures are reduced, smaller ones left alone.

    Raises:
        ImageError: The file is too large, truncated, damaged, or not an image in a known format.
    """
    content = source if isinstance(source, bytes) else _read(source, file_name, limits.max_bytes)
    if len(content) > limits.max_bytes:
        raise ImageError(file_name, _too_many_bytes(limits.max_bytes))
    try:
        image, width, height, notes = _decode(content, limits.max_pixels, working_px)
    except _RefusedError as refusal:
        raise ImageError(file_name, refusal.reason) from refusal
    except MemoryError as error:
        raise ImageError(file_name, "needs more memory to decode than there is") from error
    except Exception as error:  # on hostile bytes, decoders raise anything
        raise ImageError(file_name, _reason(error, content)) from error
    return DecodedImage(image, hashlib.sha256(content).hexdigest(), width, height, notes)


def thumbnail_webp(image: Image.Image, longer_side_px: int = 320) -> bytes:
    """Return a small WebP of an RGB picture: the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    _reduced(image, longer_side_px).save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()


class _RefusedError(Exception):
    """A file turned away for a reason that is already known."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def _decode(
    content: bytes, max_pixels: int, working_px: int
) -> tuple[Image.Image, int, int, tuple[str, ...]]:
    kind = _recognise(content)
    # Image.open would compare with a process-wide limit of its own, and warn; the plug-in itself
    # reads the header only, and the limit that counts is ours.
    image = _openers()[kind](io.BytesIO(content))
    width, height = image.size
    _check_pixels(width, height, max_pixels)
    if kind == "JPEG":
        # Twice the size wanted, so that the final reduction is still a good filter's work.
        scale = max(1.0, max(width, height) / (2 * working_px))
        image.draft("RGB", (max(1, int(width / scale)), max(1, int(height / scale))))
        image.load()
    else:
        image.load()
        width, height = image.size
        _check_pixels(width, height, max_pixels)
    orientation = 1 if kind in _UPRIGHTED_BY_DECODER else _orientation(image)
    picture = _reduced(_eight_bit(image), working_px)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
        if orientation >= 5:
            width, height = height, width
    return _on_white(picture), width, height, _notes(kind, content)


def _read(path: Path, file_name: str, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(file_name, "is not a regular file")
        if status.st_size > max_bytes:
            raise ImageError(file_name, _too_many_bytes(max_bytes))
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise ImageError(file_name, f"cannot be read ({error.strerror})") from error


def _too_many_bytes(max_bytes: int) -> str:
    return f"is larger than the limit of {max_bytes / 1e6:,.1f} MB"


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _RefusedError(_DAMAGED)
    if width * height > max_pixels:
        raise _RefusedError(
            f"has {width:,} x {height:,} pixels, over the limit of "
            f"{max_pixels / 1e6:,.1f} megapixels"
        )


def _recognise(content: bytes) -> str:
    """Return the format by its first bytes, or refuse."""
    if not content:
        raise _RefusedError("is empty (0 bytes)")
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        box = content[8 : max(16, min(int.from_bytes(content[:4], "big"), 256))]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    if b"<svg" in content[:4096].lower():
        raise _RefusedError(f"is an SVG drawing; a picture must be {_READABLE}")
    raise _RefusedError(f"is not an image in a format that is read here ({_READABLE})")


@cache
def _openers() -> dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]]:
    """Import the decoders on first use; HEIF's brings a library of its own."""
    from PIL import (
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )
    from pillow_heif import HeifImageFile

    return {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
        "HEIF": HeifImageFile,
    }


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where EXIF is missing or damaged: the pixels are still good."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # see above
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the picture as L, LA, RGB or RGBA, with every sample scaled to 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled_to_eight_bit(image)
    if image.mode == "LAB":
        to_rgb = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
        )
        converted = ImageCms.applyTransform(image, to_rgb)
        if converted is None:
            raise _RefusedError(_DAMAGED)
        return converted
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _scaled_to_eight_bit(image: Image.Image) -> Image.Image:
    import numpy as np

    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((samples >> 8).astype(np.uint8))
    values = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = min(0.0, float(values.min())), float(values.max())
    if low == 0.0:
        # The least of the usual ranges that holds every sample, so that a dark picture stays dark.
        high = next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
        if image.mode == "I":
            high = max(high, 255.0)
    span = (high - low) or 1.0
    return Image.fromarray(((values - low) * (255.0 / span)).round().astype(np.uint8))


def _reduced(image: Image.Image, longer_side_px: int) -> Image.Image:
    scale = longer_side_px / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    # A plain Image, free of the file's metadata and of the decoder's buffers.
    plain = Image.new("RGB", image.size)
    plain.paste(image.convert("RGB"))
    return plain


def _notes(kind: str, content: bytes) -> tuple[str, ...]:
    if kind in ("JPEG", "BMP"):
        return ()
    # A second look, so that damage in a later frame cannot harm the first one.
    try:
        again = _openers()[kind](io.BytesIO(content))
        if not getattr(again, "is_animated", False):
            return ()
        if len(content) > _MAX_BYTES_TO_COUNT_FRAMES:
            return ("first frame of several",)
        return (f"first frame of {again.n_frames}",)  # type: ignore[attr-defined]
    except Exception:  # see decode
        return ("first frame of several",)


def _reason(error: Exception, content: bytes) -> str:
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text or "end of file" in text:
        return _TRUNCATED
    return _TRUNCATED if _ends_early(content) else _DAMAGED


def _ends_early(content: bytes) -> bool:
    """Tell whether the container promises more bytes than there are."""
    if content[:4] == b"RIFF":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if content[4:8] == b"ftyp":
        at = 0
        while at + 8 <= len(content):
            size = int.from_bytes(content[at : at + 4], "big")
            if size == 1:
                size = int.from_bytes(content[at + 8 : at + 16], "big")
            if size < 8:
                return False
            at += size
        return at != len(content)
    return len(content) < 64
