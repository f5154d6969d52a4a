"""Photographic cut-outs of Debian's ``tuxpaint-stamps-default``, as a folder of photos.

A stamp is a PNG with a transparent ground and, beside it, a text of the same name: a sentence in
English, then one for each other language, ``fr.utf8=Un chat.``
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import get_settings
from core.errors import ImageError, SourceError
from core.files import write_atomically
from core.images.decode import DecodeLimits, decode
from core.text import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

INSTALLED = Path("/usr/share/tuxpaint/stamps")
"""Where the package puts them."""
LICENSE = "GPL-2 (Tux Paint stamps)"
SOURCE_URL = "https://sourceforge.net/projects/tuxpaint"
TOPICS = (
    *("animals", "food", "hobbies", "household", "people"),
    *("plants", "space", "sports", "town", "vehicles"),
)
"""Folders that hold photos; the others are letters, signs, clothes and decorations."""

_DRAWN = {"cartoon", "roadsigns", "flags", "symbols"}
_TRANSLATION = re.compile(r"([a-z]{2,3}(?:[_@][A-Za-z_@]+)?)\.utf8=(.+)")
_SIDE_PX = 320
_MARGIN = 0.1
_GROUND = (240, 238, 232)
_LEAST_PX = 48
_MOST_FLAT = 0.12
_FEWEST_COLOURS = 300


@dataclass(frozen=True, slots=True)
class Stamp:
    """One cut-out.

    Attributes:
        name: Its path below the stamps, without suffix and with hyphens for slashes.
        path: The PNG.
        caption: What it shows, in English.
        translations: The same by code of the language, such as ``fr`` or ``pt_BR``.
    """

    name: str
    path: Path
    caption: str
    translations: dict[str, str]


def write_stamps(out: Path, stamps: Path = INSTALLED) -> int:
    """Write the photographic stamps, on a plain ground, and ``metadata.jsonl`` into a folder.

    Args:
        out: New or empty folder.
        stamps: Where the stamps are.

    Returns:
        How many there are.

    Raises:
        SourceError: The package is not installed, or the folder holds something.
    """
    if not stamps.is_dir():
        raise SourceError(
            f"There are no stamps in {stamps}. Install them with: apt-get install "
            "tuxpaint-stamps-default (on a Space, put that name into packages.txt)."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SourceError(f"{out} holds something already; choose another folder.")
    limits = DecodeLimits.of(get_settings())
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for stamp in _stamps(stamps):
        picture = _on_plain_ground(stamp.path, limits)
        if picture is None:
            continue
        picture.save(out / f"{stamp.name}.png")
        about = {
            "file_name": f"{stamp.name}.png",
            "captions": [stamp.caption],
            "translations": stamp.translations,
            "license": LICENSE,
            "source_url": SOURCE_URL,
        }
        lines.append(json.dumps(about, ensure_ascii=False))
    if not lines:
        raise SourceError(f"{stamps} holds no photographic stamp with a text beside it.")
    write_atomically(out / "metadata.jsonl", ("\n".join(lines) + "\n").encode())
    return len(lines)


def _stamps(folder: Path) -> Iterator[Stamp]:
    for topic in TOPICS:
        for path in sorted((folder / topic).rglob("*.png")):
            parts = path.relative_to(folder).with_suffix("").parts
            text = path.with_suffix(".txt")
            if _DRAWN & {*parts} or parts[-1].endswith(("_mirror", "_flip")) or not text.is_file():
                continue
            first, *others = text.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            found = (_TRANSLATION.fullmatch(line.strip()) for line in others)
            translations = {match[1]: one_line(match[2]) for match in found if match}
            if caption := one_line(first):
                yield Stamp("-".join(parts), path, caption, translations)


def _on_plain_ground(path: Path, limits: DecodeLimits) -> Image | None:
    """Return a stamp in the middle of a square; None for a drawing, or what cannot be read."""
    from PIL import Image

    try:
        decode(path, path.name, limits)  # refuses what is too large, before it is opened here
    except ImageError:
        return None
    with Image.open(path) as opened:
        stamp = opened.convert("RGBA")
    if min(stamp.size) < _LEAST_PX or not _is_photographic(stamp):
        return None
    square = Image.new("RGB", (_SIDE_PX, _SIDE_PX), _GROUND)
    scale = _SIDE_PX * (1 - 2 * _MARGIN) / max(stamp.size)
    width, height = (max(1, round(side * scale)) for side in stamp.size)
    stamp = stamp.resize((width, height), Image.Resampling.LANCZOS)
    square.paste(stamp, ((_SIDE_PX - width) // 2, (_SIDE_PX - height) // 2), stamp)
    return square


def _is_photographic(stamp: Image) -> bool:
    """Tell a photo from a drawing, which has areas of one colour, and few colours."""
    import numpy as np

    pixels = np.asarray(stamp)
    opaque = pixels[..., 3] > 250
    colours = pixels[..., :3][opaque] >> 2
    if len(np.unique(colours, axis=0)) < _FEWEST_COLOURS:
        return False
    inner = opaque[1:, 1:] & opaque[:-1, 1:] & opaque[1:, :-1]
    rgb = pixels[..., :3]
    same = (rgb[1:, 1:] == rgb[:-1, 1:]).all(-1) & (rgb[1:, 1:] == rgb[1:, :-1]).all(-1)
    return bool((same & inner).sum() < _MOST_FLAT * max(1, inner.sum()))
