"""The one door for pictures: any file in, an upright RGB picture in sRGB of bounded size out.

Hostile bytes are expected: decoding happens in processes with limits of time and memory, and
whatever a decoder raises becomes one :class:`~core.errors.ImageError`.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ImageError
from core.images.recognise import RefusedError, kind_of
from core.images.sandbox.decoder_pool import decoder_pool

if TYPE_CHECKING:
    import threading

    from PIL import Image

    from core.config import Settings

_HEAD_BYTES = 4096
WORKING_PX = 640
"""Longer side of a decoded picture: more than any model or thumbnail here looks at."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is refused.

    Attributes:
        max_bytes: Largest encoded file.
        max_pixels: Most pixels (width x height).
        max_seconds: Longest that decoding may keep a core busy.
    """

    max_bytes: int
    max_pixels: int
    max_seconds: int = 30

    @classmethod
    def of(cls, settings: Settings) -> DecodeLimits:
        """Take the limits from the settings."""
        return cls(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_seconds)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture, ready for thumbnails and models.

    Attributes:
        image: RGB, upright, sRGB, longer side at most the ``working_px`` asked for.
        sha256: Hex digest of the encoded bytes.
        width: Pixels of the original, upright.
        height: Pixels of the original, upright.
        notes: What a reader should know, e.g. ``"shows its first frame of 12"``; each continues
            the file's name.
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
    source: Path | bytes,
    file_name: str,
    limits: DecodeLimits,
    working_px: int = WORKING_PX,
    stop: threading.Event | None = None,
) -> DecodedImage:
    """Decode one file into an upright RGB picture.

    Palettes, grey, CMYK and Lab become RGB; colours are converted to sRGB through the file's
    profile; samples of more than 8 bits are scaled, not clipped; transparency is laid on white.
    Of an animation or a multi-page file the first frame is taken, of a raw file its preview.

    Args:
        source: A file, or its content.
        file_name: Name for the error, as the file's owner knows it.
        limits: What to refuse.
        working_px: Longest side wanted; larger pictures are reduced, smaller ones left alone.
        stop: Ends the work when it is set.

    Raises:
        ImageError: The file is too large, truncated, damaged, too costly, or not an image in a
            known format.
        DecodingStoppedError: ``stop`` was set, or the program is ending.
    """
    content = source if isinstance(source, bytes) else _read(source, file_name, limits.max_bytes)
    if len(content) > limits.max_bytes:
        raise ImageError(file_name, _too_many_bytes(limits.max_bytes))
    try:
        found = decoder_pool().decode(content, limits, working_px, stop)
    except RefusedError as refusal:
        raise ImageError(file_name, refusal.reason) from refusal
    digest = hashlib.sha256(content).hexdigest()
    return DecodedImage(found.image, digest, found.width, found.height, found.notes)


def looks_like_picture(path: Path) -> bool:
    """Tell whether a file begins like a picture of a kind that is read here; decode nothing."""
    try:
        with path.open("rb") as file:
            kind_of(file.read(_HEAD_BYTES))
    except (OSError, RefusedError):
        return False
    return True


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
