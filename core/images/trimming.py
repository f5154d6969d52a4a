"""A file cut down to what its first picture needs, before a decoder sees it.

What a decoder would read at length and nobody looks at is left out: texts, later frames, comments.
Blocks are counted here, where counting is cheap, so that a file of a million empty ones is refused
and not worked through. A damaged side chunk cannot harm a picture that is whole.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from core.images.colour import LONGEST_PROFILE, coded_profile, measured_profile
from core.images.recognise import TRUNCATED, RefusedError

MAX_BLOCKS = 100_000
"""Chunks of a PNG, or blocks of a GIF."""
MAX_GIF_PARTS = 2_000_000
"""Parts of at most 255 bytes of which the blocks of a GIF consist; a block counts as twenty."""
MAX_SEGMENTS = 5_000
"""Segments of a JPEG; ICC profiles and maps of depth come in many of 64 KB."""
MAX_SCANS = 200
"""Scans of a JPEG; encoders make about ten."""

BROKEN_PROFILE = "has a colour profile that cannot be read, and is taken as sRGB"
_KEPT_OF_PNG = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}
_ORIENTED_BY = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_LONGEST_ORIENTING_TEXT = 65_536
_USUAL_GAMMA = 45_455
_GIF_MARK = re.compile(rb"[!,;]")
_GIF_FRAME, _GIF_END = ord(","), ord(";")
_PARTS_OF_A_BLOCK = MAX_GIF_PARTS // MAX_BLOCKS
# Not a stuffed byte, padding, or a mark without a segment: TEM, the restarts, the start.
_JPEG_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A file without what its first picture does not need.

    Attributes:
        content: The file.
        frames: Pictures that the whole file held; 0 means more than were counted.
        profile: ICC profile that was taken out of it, or that stands for what was.
        notes: Remarks for the file's owner.
    """

    content: bytes
    frames: int = 1
    profile: bytes | None = None
    notes: tuple[str, ...] = ()


def trimmed_png(content: bytes) -> Trimmed:
    """Keep the chunks of a PNG that its pixels depend on.

    Raises:
        RefusedError: It is made of too many chunks.
    """
    kept = [content[:8]]
    colour: dict[bytes, bytes] = {}
    frames, at, chunks = 1, 8, 0
    while at + 12 <= len(content):
        chunks += 1
        if chunks > MAX_BLOCKS:
            raise RefusedError(f"is made of more than {MAX_BLOCKS:,} blocks")
        size = int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        end = at + 12 + size
        if name in _KEPT_OF_PNG:
            # A capital: pixels need it.
            if name[0] < 0x61 or (_is_intact(content, at, end) and _fits(name, size, content)):
                kept.append(content[at:end])
        elif name == b"acTL" and size == 8 and _is_intact(content, at, end):
            frames = int.from_bytes(content[at + 8 : at + 12], "big")
        elif name in (b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM"):
            colour.setdefault(name, content[at + 8 : end - 4])
        elif _may_orient(content, at, end):
            kept.append(content[at:end])
        at = end
        if name == b"IEND":
            break
    else:
        kept.append(content[at:])
    profile, notes = _png_profile(colour)
    return Trimmed(b"".join(kept), max(1, frames), profile, notes)


def _fits(name: bytes, size: int, content: bytes) -> bool:
    """Tell whether a chunk that says what is transparent has the size for its kind of PNG."""
    sizes = {0: (2,), 2: (6,), 3: range(1, 257)}.get(content[25] if len(content) > 25 else -1, ())
    return name != b"tRNS" or size in sizes


def _is_intact(content: bytes, start: int, end: int) -> bool:
    return zlib.crc32(content[start + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")


def _may_orient(content: bytes, start: int, end: int) -> bool:
    """Tell whether a text may hold the orientation, and is small and whole."""
    if end - start > _LONGEST_ORIENTING_TEXT:
        return False
    name, value = content[start + 4 : start + 8], content[start + 8 : end - 4]
    if name not in (b"tEXt", b"zTXt", b"iTXt") or not value.startswith(_ORIENTED_BY):
        return False
    if name == b"zTXt" and _inflated(value.partition(b"\0")[2][1:], 1_000_000) is None:
        return False
    return (name != b"iTXt" or value.partition(b"\0")[2][:1] == b"\0") and _is_intact(
        content, start, end
    )


def _inflated(data: bytes, limit: int) -> bytes | None:
    """Decompress; None if that fails, or gives more than ``limit`` bytes."""
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, limit)
    except zlib.error:
        return None
    return found if inflate.eof else None


def _png_profile(colour: dict[bytes, bytes]) -> tuple[bytes | None, tuple[str, ...]]:
    coded = colour.get(b"cICP", b"")
    if len(coded) == 4:
        return coded_profile(coded[0], coded[1]), ()
    if b"iCCP" in colour:
        profile = _inflated(colour[b"iCCP"].partition(b"\0")[2][1:], LONGEST_PROFILE)
        return (profile, ()) if profile else (None, (BROKEN_PROFILE,))
    if b"sRGB" in colour:
        return None, ()
    gamma, corners = None, None
    if len(colour.get(b"gAMA", b"")) == 4:
        stored = int.from_bytes(colour[b"gAMA"], "big")
        gamma = 100_000 / stored if stored not in (0, _USUAL_GAMMA) else None
    if len(colour.get(b"cHRM", b"")) == 32:
        corners = tuple(value / 100_000 for value in struct.unpack(">8I", colour[b"cHRM"]))
    return measured_profile(gamma, corners), ()


def trimmed_gif(content: bytes) -> Trimmed:
    """Keep the first frame of a GIF, and count the others.

    Raises:
        RefusedError: Too much comes before its first frame.
    """
    head = content[: 13 + _colour_table(content[10:11])]
    control, first, frames = b"", b"", 0
    try:
        for start, end in _gif_blocks(content, len(head)):
            if content[start] == _GIF_FRAME:
                frames += 1
                first = first or content[start:end]
            elif not frames and content[start + 1 : start + 2] == b"\xf9":
                control = content[start:end]
    except RefusedError:
        if not first:
            raise
        frames = 0
    return Trimmed(head + control + first, frames)


def _gif_blocks(content: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield where each frame and extension starts and ends; the file may cut off the last."""
    parts = 0
    while found := _GIF_MARK.search(content, at):
        at = start = found.start()
        if content[at] == _GIF_END:
            return
        is_frame = content[at] == _GIF_FRAME
        at += 11 + _colour_table(content[at + 9 : at + 10]) if is_frame else 2
        while at < len(content) and content[at]:
            at += content[at] + 1
            parts += 1
            if parts > MAX_GIF_PARTS:
                break
        parts += _PARTS_OF_A_BLOCK
        if parts > MAX_GIF_PARTS:
            raise RefusedError(f"is made of more than {MAX_BLOCKS:,} blocks")
        at += 1
        yield start, min(at, len(content))


def _colour_table(flags: bytes) -> int:
    """Return the bytes of the table of colours that GIF's flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def check_jpeg(content: bytes) -> bool:
    """Count segments and scans without decoding any.

    Returns:
        Whether the file has its end marker.

    Raises:
        RefusedError: There are too many.
    """
    at, segments, scans = 2, 0, 0
    while found := _JPEG_MARK.search(content, at):
        at = found.end()
        mark = content[at - 1]
        if mark == 0xD9:
            return True
        segments += 1
        scans += mark == 0xDA
        if segments > MAX_SEGMENTS:
            raise RefusedError(f"is made of more than {MAX_SEGMENTS:,} blocks")
        if scans > MAX_SCANS:
            raise RefusedError(f"is sent in more than {MAX_SCANS:,} scans")
        at += int.from_bytes(content[at : at + 2], "big")
    return False


def webp_size(content: bytes) -> tuple[int, int]:
    """Return width and height by the header of a WebP's first chunk.

    Raises:
        RefusedError: There is no such header.
    """
    name, data = content[12:16], content[20:30]
    if len(data) < 10:
        raise RefusedError(TRUNCATED)
    if name == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width, height
