"""File names as visitors sent them, made fit to show and to store; they never name a file here."""

from __future__ import annotations

import unicodedata

from core.text import composed

_LONGEST = 120
_TAIL = 20
_READ, _READ_TAIL = 480, 80
"""Characters of a name that are looked at, from its beginning and its end: at most 2,240 bytes."""
_UNNAMED = "unnamed"


def shown_name(name: str) -> str:
    """Return the last part of a name as one printable line of at most 120 characters.

    Folders are cut off, whichever slash they use. Control characters, line breaks and lone
    surrogates become U+FFFD, so that the reader sees that something was there; invisible format
    characters, the marks that turn text from right to left among them, are dropped. HTML is left
    as it is: whoever shows a name escapes it. Of a very long name only both ends are read.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if len(last) > _READ + _READ_TAIL:
        last = last[:_READ] + last[-_READ_TAIL:]
    kept = []
    for character in last:
        category = unicodedata.category(character)
        if category == "Cf":
            continue
        shown = character.isprintable() or category == "Zs"
        kept.append(character if shown else "\N{REPLACEMENT CHARACTER}")
    line = " ".join(composed("".join(kept)).split())
    if line in ("", ".", ".."):
        return _UNNAMED
    if len(line) > _LONGEST:
        return f"{line[: _LONGEST - _TAIL - 1]}…{line[-_TAIL:]}"
    return line
