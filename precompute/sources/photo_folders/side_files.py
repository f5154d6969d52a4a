"""Files that tell of one photo beside them: a caption as text, or JSON of Google or img2dataset."""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PHOTO_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
        *(".tif", ".tiff", ".avif", ".heic", ".heif", ".dng"),
    }
)

_MOST_BYTES = 1 << 20
_SHORTENED_CHARS = 40
"""Google cuts names of side files to 46 characters, and a little more where ``(1)`` follows."""
_OF_A_PHOTO = {"photoTakenTime", "creationTime", "photoLastModifiedTime", "googlePhotosOrigin"}
_OF_AN_ALBUM = {"access", "date", "albumData"}
_TAIL = "supplemental-metadata"


@dataclass(frozen=True, slots=True)
class SideFiles:
    """What lies beside photos to tell of them.

    Attributes:
        rows: By the name of a photo, what is told of it: columns ``caption`` or ``description``.
        names: The files themselves; none is a picture.
        first: The first one with a caption; "" if there is none.
    """

    rows: dict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    names: set[str] = field(default_factory=set)
    first: str = ""


def find_side_files(root: Path, files: Iterable[str]) -> SideFiles:
    """Return what is told of photos by ``dog.txt`` or ``dog.json`` beside ``dog.jpg``.

    Or by ``dog.jpg.json``, ``dog.jpg.supplemental-metadata.json`` and their like, as Google Takeout
    writes them beside photos and films, with one for the album.

    Args:
        root: Where the files lie.
        files: Their names below it, with slashes.
    """
    files = sorted(files)
    if not any(name.lower().endswith((".txt", ".json")) for name in files):
        return SideFiles()
    beside, photos = _names_and_photos(files)
    found, first = SideFiles(), ""
    for name in files:
        stem, suffix = posixpath.splitext(name)
        owners, told = photos.get(stem, []), {}
        if suffix.lower() == ".txt" and owners:
            told = {"caption": _text(root / name)}
        elif suffix.lower() == ".json":
            content = _json(root / name)
            if owners and "caption" in content:
                told = {"caption": str(content["caption"] or "")}
            elif _is_googles(content):
                folder = posixpath.dirname(name)
                own = _photos_of(posixpath.basename(stem), content, beside[folder])
                owners = [posixpath.join(folder, photo) for photo in own]
                told = {"description": str(content.get("description") or "")}
        if not told:
            continue
        found.names.add(name)
        for owner in owners if any(text.strip() for text in told.values()) else ():
            first = first or name
            found.rows[owner].append(told)
    return SideFiles(found.rows, found.names, first)


def _names_and_photos(
    files: Iterable[str],
) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """Return the names in each folder, and the photos of each name without its suffix."""
    beside: dict[str, set[str]] = defaultdict(set)
    photos: dict[str, list[str]] = defaultdict(list)
    for name in files:
        stem, suffix = posixpath.splitext(name)
        beside[posixpath.dirname(name)].add(posixpath.basename(name))
        if suffix.lower() in PHOTO_SUFFIXES:
            photos[stem].append(name)
    return beside, photos


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8-sig", "replace")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(path))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= _MOST_BYTES else b""


def _is_googles(content: dict[str, Any]) -> bool:
    if "albumData" in content:
        return True
    return isinstance(content.get("title"), str) and bool(
        (_OF_A_PHOTO | _OF_AN_ALBUM).intersection(content)
    )


def _photos_of(stem: str, content: dict[str, Any], beside: set[str]) -> list[str]:
    """Return the photos that a side file of Google's tells of: one, and its edited copy.

    ``dog.jpg(1)`` tells of ``dog(1).jpg``; names that are too long are cut, and so is the tail.
    """
    number = re.search(r"\(\d+\)\Z", stem)
    name = stem[: number.start()] if number else stem
    head, dot, tail = name.rpartition(".")
    if dot and _TAIL.startswith(tail):
        name = head
    named = [name] if number else [name, str(content.get("title"))]
    for given in named:
        base, suffix = posixpath.splitext(given)
        base += number[0] if number else ""
        own = [each for each in (base + suffix, f"{base}-edited{suffix}") if each in beside]
        if own:
            return own
    if len(name) < _SHORTENED_CHARS or number:
        return []
    own = [each for each in beside if each.startswith(name) and not each.endswith(".json")]
    return own if len(own) == 1 else []
