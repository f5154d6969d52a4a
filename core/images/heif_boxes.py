"""The few boxes of an HEIC or AVIF file that its decoder does not tell of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MAX_BOXES = 10_000


@dataclass(frozen=True, slots=True)
class ImageProperties:
    """What the properties of an HEIC or AVIF file say.

    Attributes:
        turns: Whether the file says how to turn the picture, which its decoder then does.
        coded: Code points of ITU-T H.273 for primaries and transfer; None without.
    """

    turns: bool = False
    coded: tuple[int, int] | None = None


def image_properties(content: bytes) -> ImageProperties:
    """Read the properties of all items together: a photo's thumbnail shares those of the photo."""
    turns, coded = False, None
    for name, start, end in _walk(content, (b"meta", b"iprp", b"ipco")):
        if name in (b"irot", b"imir"):
            turns = True
        elif name == b"colr" and content[start : start + 4] == b"nclx" and end - start >= 8:
            codes = (
                int.from_bytes(content[start + 4 : start + 6], "big"),
                int.from_bytes(content[start + 6 : start + 8], "big"),
            )
            coded = coded or codes
    return ImageProperties(turns, coded)


def _walk(content: bytes, path: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of what lies in the first box of each name on the path."""
    start, end = 0, len(content)
    for step in path:
        for name, inner, stop in _boxes(content, start, end):
            if name == step:
                # "meta" has a version and flags before the boxes in it.
                start, end = inner + (4 if name == b"meta" else 0), stop
                break
        else:
            return
    yield from _boxes(content, start, end)


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, head = int.from_bytes(content[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        stop = end if size == 0 else at + size
        if stop < at + head or stop > end:
            return
        yield content[at + 4 : at + 8], at + head, stop
        at = stop
