"""What the cell of an image column holds: bytes, a place where they are, or base64 text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from precompute.sources.types import printable_name

_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
"""How JPEG, PNG, GIF, WebP, BMP, TIFF (twice) and HEIC or AVIF begin in base64."""

_LONGEST_PATH = 4096
_BROKEN = "is a data: URI that cannot be read"


@dataclass(frozen=True, slots=True)
class ImageCell:
    """One picture of one row.

    Attributes:
        file_name: As its owner knows it, or a name by the row's number.
        content: Encoded bytes; None if they are elsewhere or missing.
        place: Path or address of the bytes, where the cell has nothing else.
        problem: Why there is neither, worded as the reason of an ImageError.
    """

    file_name: str
    content: bytes | None = None
    place: str | None = None
    problem: str = ""


def read_cell(value: Any, fallback: str) -> ImageCell:  # noqa: ANN401 - whatever a row holds
    """Return what a cell holds: ``{bytes, path}``, bytes, a path or address, a ``data:`` URI.

    Args:
        value: Of a column of images, undecoded.
        fallback: File name for a picture that has none of its own.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
    else:
        content, path = value, None
    if isinstance(content, str):
        content, path = None, path or content
    if isinstance(path, str) and path.startswith("data:"):
        embedded = _of_data_uri(path)
        return ImageCell(fallback, embedded, problem="" if embedded else _BROKEN)
    if isinstance(path, str) and (embedded := _of_base64(path)) is not None:
        return ImageCell(fallback, embedded)
    file_name = (_last_part(path) if isinstance(path, str) else "") or fallback
    if isinstance(content, bytes):
        return ImageCell(file_name, content)
    if not isinstance(path, str) or not path:
        return ImageCell(fallback, problem="has no image in its row")
    if "\0" in path or len(path) > _LONGEST_PATH:
        return ImageCell(fallback, problem="is named by what is neither a path nor an address")
    return ImageCell(file_name, place=path)


def _last_part(place: str) -> str:
    inside = place.split("::")[0]
    if "://" in inside:
        inside = inside.partition("?")[0].partition("#")[0]
    return printable_name(inside.replace("\\", "/").rstrip("/").rpartition("/")[2])


def _of_data_uri(uri: str) -> bytes | None:
    head, comma, body = uri.partition(",")
    if not comma:
        return None
    raw = unquote_to_bytes(body)
    return _decoded(raw) if head.lower().endswith(";base64") else raw


def _of_base64(text: str) -> bytes | None:
    """Return the bytes of a picture that is written as plain base64; None of any other text."""
    if len(text) < 64 or not text.startswith(_BASE64_STARTS):
        return None
    return _decoded(text.encode("ascii", "replace"))


def _decoded(text: bytes) -> bytes | None:
    # Line breaks are allowed, and the padding at the end is often left off.
    packed = b"".join(text.split()).rstrip(b"=").translate(_URL_SAFE)
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
