"""Hostile bytes to pixels: an upright RGB picture in sRGB, of bounded size.

The format is recognised by content; blocks and pages are counted, and the pixel limit is checked
on the header, before a pixel is decoded. It runs in a process of its own: see
:mod:`core.images.sandbox.decoder_pool`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from PIL import Image, ImageFile

from core.images.colour import (
    ProfileError,
    coded_profile,
    exif_profile,
    lab_to_rgb,
    to_srgb,
)
from core.images.heif_boxes import image_properties
from core.images.recognise import DAMAGED, TRUNCATED, RefusedError, kind_of
from core.images.samples import eight_bit_grey, tiff_of_other_depth
from core.images.thumbnails import reduced
from core.images.tiff_pages import TiffPages, tiff_pages
from core.images.trimming import (
    BROKEN_PROFILE,
    Trimmed,
    check_jpeg,
    trimmed_gif,
    trimmed_png,
    webp_size,
)

NO_END_MARKER = "lacks its end marker; all of the picture is there"
_EXIF_ORIENTATION = 0x0112
_PHOTOMETRIC, _YCBCR = 262, 6
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_END_OF_JPEG = b"\xff\xd9"
# Samples that no missing part of a photo would decode to by chance.
_OTHER_SAMPLES = bytes(range(1, 255)) * 16
# Bytes that decoding takes for each pixel of the original: as measured, and a third more.
_BYTES_PER_PIXEL = {
    "JPEG": 12,
    "PNG": 18,
    "GIF": 12,
    "BMP": 12,
    "TIFF": 18,
    "WEBP": 22,
    "AVIF": 20,
    "HEIF": 20,
}


@dataclass(slots=True)
class OpenedPicture:
    """A file whose header was read.

    Attributes:
        kind: As :func:`core.images.recognise.kind_of` returns it.
        content: What is decoded of the file.
        image: Not decoded yet.
        frames: Pictures in the file; 0 means more than were counted.
        profile: Its ICC profile, None for sRGB.
        has_end: Whether a JPEG has its end marker.
        orientation: How to turn the decoded pixels, as EXIF counts; None is as EXIF says.
        notes: What its owner should know; each continues the file's name.
    """

    kind: str
    content: bytes
    image: Image.Image
    frames: int = 1
    profile: bytes | None = None
    has_end: bool = True
    orientation: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a file shows.

    Attributes:
        image: RGB, upright, sRGB.
        width: Pixels of the original, upright.
        height: Pixels of the original, upright.
        notes: What its owner should know; each continues the file's name.
    """

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...]


def load_decoders() -> None:
    """Import all decoders, and let each decode on one thread."""
    import pillow_heif
    from PIL import AvifImagePlugin

    _openers()
    pillow_heif.options.DECODE_THREADS = 1
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def open_picture(content: bytes, max_pixels: int, reserve: Callable[[int], None]) -> OpenedPicture:
    """Read a file's header.

    Args:
        content: The file.
        max_pixels: Most pixels (width x height).
        reserve: Called once, with the bytes that decoding may need at most, before they are taken.

    Raises:
        RefusedError: For a reason that is known: too many pixels, blocks or strips.
        Exception: Decoders raise anything on hostile bytes; see
            :func:`core.images.recognise.reason_of`.
    """

    def admit(size: tuple[int, int], bytes_per_pixel: int) -> None:
        _check_size(size, max_pixels)
        reserve(size[0] * size[1] * bytes_per_pixel + 3 * len(content))

    kind = kind_of(content)
    if kind == "TIFF":
        return _open_tiff(content, tiff_pages(content), admit)
    if kind == "WEBP":
        # Its decoder takes memory for the whole picture as it reads the header.
        admit(webp_size(content), _BYTES_PER_PIXEL[kind])
    has_end = kind != "JPEG" or check_jpeg(content)
    trimmed = {"PNG": trimmed_png, "GIF": trimmed_gif}.get(kind, Trimmed)(content)
    image = _plugin(kind, trimmed.content)
    if kind != "WEBP":
        admit(image.size, _BYTES_PER_PIXEL[kind])
    opened = OpenedPicture(kind, trimmed.content, image, trimmed.frames, trimmed.profile, has_end)
    opened.notes += trimmed.notes
    if kind in ("WEBP", "AVIF", "HEIF"):
        opened.frames = getattr(image, "n_frames", 1)
    if kind in ("AVIF", "HEIF"):
        properties = image_properties(content)
        if properties.coded:
            opened.profile = coded_profile(*properties.coded)
        if kind == "HEIF":
            # Without a property that turns it, EXIF is all that there is to go by; the decoder
            # has read and then reset it.
            turned = 1 if properties.turns else image.info.get("original_orientation")
            opened.orientation = turned or 1
    opened.profile = image.info.get("icc_profile") or opened.profile
    return opened


def pixels_of(opened: OpenedPicture, working_px: int) -> Pixels:
    """Decode a file's first picture.

    Args:
        opened: From :func:`open_picture`; it is used up.
        working_px: Longest side wanted; larger pictures are reduced, smaller ones left alone.

    Raises:
        RefusedError: For a reason that is known.
        Exception: As for :func:`open_picture`.
    """
    size = opened.image.size
    if opened.kind == "JPEG":
        image = _load_jpeg(opened, working_px)
    else:
        image = opened.image
        image.load()
        # A decoder may correct what the header says; it had the memory for that size only.
        size = image.size
    orientation = _read_exif(opened) if opened.orientation is None else opened.orientation
    picture = _in_srgb(reduced(_eight_bit(image, opened), working_px, size), opened)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
        if orientation >= 5:
            size = size[::-1]
    if opened.frames != 1:
        count = f"of {opened.frames:,}" if opened.frames else "of several"
        opened.notes.append(f"shows its first frame {count}")
    return Pixels(_on_white(picture), *size, tuple(dict.fromkeys(opened.notes)))


def _plugin(kind: str, content: bytes) -> ImageFile.ImageFile:
    # Image.open would compare with a process-wide limit of its own, and warn; the plug-in itself
    # reads the header only, and the limit that counts is ours.
    return _openers()[kind](io.BytesIO(content))


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


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise RefusedError(DAMAGED)
    if width * height > max_pixels:
        raise RefusedError(
            f"has {width:,} x {height:,} pixels, over the limit of "
            f"{max_pixels / 1e6:,.1f} megapixels"
        )


def _read_exif(opened: OpenedPicture) -> int:
    """Return the orientation, 1 where EXIF is damaged, and take over the colour space it names."""
    try:
        exif = opened.image.getexif()
        orientation = int(exif.get(_EXIF_ORIENTATION, 1))
    except Exception:  # the pixels are still good
        return 1
    if opened.kind == "JPEG" and not opened.profile:
        opened.profile = exif_profile(exif)
    return orientation


def _open_tiff(
    content: bytes, pages: TiffPages, admit: Callable[[tuple[int, int], int], None]
) -> OpenedPicture:
    if pages.preview:
        has_end = check_jpeg(pages.preview)
        image: Image.Image = _plugin("JPEG", pages.preview)
        admit(image.size, _BYTES_PER_PIXEL["JPEG"])
        opened = OpenedPicture("JPEG", pages.preview, image, has_end=has_end)
        opened.profile = image.info.get("icc_profile")
    else:
        try:
            image = _plugin("TIFF", content)
        except SyntaxError:
            image = tiff_of_other_depth(content, admit)
        else:
            admit(image.size, _BYTES_PER_PIXEL["TIFF"])
            tags = image.tag_v2  # type: ignore[attr-defined]  # every TIFF has them
            if image.tile[0].codec_name == "raw" and tags.get(_PHOTOMETRIC) == _YCBCR:
                raise RefusedError(
                    "is a TIFF of a kind that is not read here (YCbCr samples, compression none)"
                )
        profile = image.info.get("icc_profile")
        opened = OpenedPicture("TIFF", content, image, pages.count, profile)
    # The decoder turns a TIFF by itself; a preview goes by its raw file.
    opened.orientation = pages.orientation if pages.preview else 1
    if pages.is_raw:
        opened.frames = 1
        opened.notes.append(
            f"is a camera's raw file; its preview of {image.width:,} x {image.height:,} is shown"
        )
    return opened


def _load_jpeg(opened: OpenedPicture, working_px: int) -> Image.Image:
    """Decode a JPEG, one too of which nothing but the end marker is missing."""
    if opened.has_end:
        return _draft(opened.image, working_px)
    # Zeros are what a file is filled up with; only a stuffed byte may be one of the picture's.
    kept = opened.content.rstrip(b"\0")
    kept += b"\0" if kept.endswith(b"\xff") else b""
    filled = [
        _draft(_plugin("JPEG", kept + tail + _END_OF_JPEG), working_px)
        for tail in (b"", _OTHER_SAMPLES)
    ]
    # Where pixels are missing, they come out by what follows; where none are, that is ignored.
    if filled[0].tobytes() != filled[1].tobytes():
        raise RefusedError(TRUNCATED)
    opened.notes.append(NO_END_MARKER)
    return filled[0]


def _draft(image: Image.Image, working_px: int) -> Image.Image:
    # Twice the size wanted, so that the final reduction is still a good filter's work.
    scale = max(1.0, max(image.size) / (2 * working_px))
    image.draft("RGB", (max(1, int(image.width / scale)), max(1, int(image.height / scale))))
    image.load()
    return image


def _eight_bit(image: Image.Image, opened: OpenedPicture) -> Image.Image:
    """Return the picture as L, RGB, RGBA or CMYK, with every sample scaled to 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):
        return eight_bit_grey(image)
    if image.mode == "LAB":
        opened.profile = None
        return lab_to_rgb(image)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _in_srgb(image: Image.Image, opened: OpenedPicture) -> Image.Image:
    if opened.profile:
        try:
            return to_srgb(image, opened.profile)
        except ProfileError:
            opened.notes.append(BROKEN_PROFILE)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    # A plain Image, free of the file's metadata and of the decoder's buffers.
    plain = Image.new("RGB", image.size)
    plain.paste(image.convert("RGB"))
    return plain
