"""Pages and strips of a TIFF, counted before a decoder sees it, and the previews of raw files."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from core.images.recognise import RefusedError

MAX_PAGES = 1_000
"""Pages that are counted; of any number, only the first is decoded."""
MAX_STRIPS = 100_000
"""Strips or tiles of a page."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 256, 257, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _STRIP_BYTES, _SUB_IFDS = 273, 274, 279, 330
_JPEG_OFFSET, _JPEG_BYTES, _DNG_VERSION = 513, 514, 50706
_TILED = (273, 279, 324, 325)
_OF_A_SENSOR = {32803, 34892}
_MAX_SUB_IFDS = 32

_Entries = Mapping[int, tuple[int, int, int]]
"""Tag -> type, count, place of the value."""


@dataclass(frozen=True, slots=True)
class TiffPages:
    """What a TIFF holds.

    Attributes:
        count: Its pages; 0 means more than were counted.
        is_raw: Whether it is a camera's raw file, such as a DNG.
        preview: The largest JPEG in a raw file.
        orientation: How to turn the preview, as EXIF has it.
    """

    count: int
    is_raw: bool = False
    preview: bytes | None = None
    orientation: int = 1


def tiff_pages(content: bytes) -> TiffPages:
    """Count the pages of a TIFF, and the strips of the first.

    Raises:
        RefusedError: The first page has too many strips.
    """
    file = _Tiff(content)
    pages: list[_Entries] = []
    count, seen, at = 0, set(), file.first
    while at and at not in seen and count < MAX_PAGES:
        seen.add(at)
        entries, at = file.page(at)
        count += 1
        if len(pages) < _MAX_SUB_IFDS:
            pages.append(entries)
    if not pages:
        return TiffPages(1)
    strips = max((pages[0][tag][1] for tag in _TILED if tag in pages[0]), default=0)
    if strips > MAX_STRIPS:
        raise RefusedError(
            f"is cut into {strips:,} strips or tiles, over the limit of {MAX_STRIPS:,}"
        )
    every = [*pages, *(sub for page in pages[:4] for sub in file.sub_pages(page))]
    is_raw = (
        _DNG_VERSION in pages[0]
        or content[8:10] == b"CR"
        or any(_OF_A_SENSOR & set(file.numbers(page, _PHOTOMETRIC)) for page in every)
    )
    preview = max((file.jpeg_of(page) for page in every), key=len) if is_raw else b""
    orientation = next(iter(file.numbers(pages[0], _ORIENTATION)), 1)
    return TiffPages(0 if at and at not in seen else count, is_raw, preview or None, orientation)


class _Tiff:
    """Reads directories of a TIFF or BigTIFF; whatever lies beyond the file is not there."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.order = "<" if content[:2] == b"II" else ">"
        self.big = 43 in content[2:4]
        self.first = self.number(8, "Q") if self.big else self.number(4, "I")

    def number(self, at: int, form: str) -> int:
        try:
            return struct.unpack_from(self.order + form, self.content, at)[0]
        except struct.error:
            return 0

    def page(self, at: int) -> tuple[_Entries, int]:
        """Return a directory's entries, and where the next one lies; 0 at the end."""
        form, size, head, word = ("Q", 20, 8, "Q") if self.big else ("H", 12, 2, "I")
        count = min(self.number(at, form), 65_535)
        at += head
        layout = struct.Struct(self.order + ("HHQ8x" if self.big else "HHI4x"))
        inline = 8 if self.big else 4
        entries: dict[int, tuple[int, int, int]] = {}
        for start in range(at, min(at + count * size, len(self.content) - size + 1), size):
            tag, kind, length = layout.unpack_from(self.content, start)
            place = start + size - inline
            if _SIZES.get(kind, 1) * length > inline:
                place = self.number(place, word)
            entries.setdefault(tag, (kind, length, place))
        return entries, self.number(at + count * size, word)

    def numbers(self, entries: _Entries, tag: int) -> tuple[int, ...]:
        """Return at most a few whole numbers of a tag."""
        kind, count, place = entries.get(tag, (0, 0, 0))
        form = _WHOLE.get(kind)
        if form is None or not count:
            return ()
        count = min(count, _MAX_SUB_IFDS)
        try:
            return struct.unpack_from(f"{self.order}{count}{form}", self.content, place)
        except struct.error:
            return ()

    def sub_pages(self, entries: _Entries) -> Iterator[_Entries]:
        for at in self.numbers(entries, _SUB_IFDS):
            yield self.page(at)[0]

    def jpeg_of(self, entries: _Entries) -> bytes:
        """Return the JPEG that a directory holds whole; empty if it holds none."""
        starts, sizes = self.numbers(entries, _JPEG_OFFSET), self.numbers(entries, _JPEG_BYTES)
        if not starts and self.numbers(entries, _COMPRESSION)[:1] in ((6,), (7,)):
            starts = self.numbers(entries, _STRIP_OFFSETS)
            sizes = self.numbers(entries, _STRIP_BYTES)
        if len(starts) != 1 or len(sizes) != 1:
            return b""
        if _OF_A_SENSOR & set(self.numbers(entries, _PHOTOMETRIC)):
            return b""  # a lossless JPEG of the sensor's own samples
        found = self.content[starts[0] : starts[0] + sizes[0]]
        # The third kind of frame, C3, is lossless: CR2 keeps the sensor's samples in one.
        return found if found[:3] == b"\xff\xd8\xff" and b"\xff\xc3" not in found[:4096] else b""
