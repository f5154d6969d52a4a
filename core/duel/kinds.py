"""What kind of query a text is, by its words: what a lens is good at differs from kind to kind."""

from __future__ import annotations

import re
from typing import Literal, get_args

QueryKind = Literal["negation", "text", "count", "colour", "action", "place", "other"]
"""``count`` names a number of things, ``text`` something that is written in the picture."""

QUERY_KINDS: tuple[QueryKind, ...] = get_args(QueryKind)

_PATTERNS: tuple[tuple[QueryKind, str], ...] = (
    ("negation", r"no|not|without|never|nobody|nothing|none|neither|except|\w+n['’]t"),
    ("text", r"text|word|words|letters?|sign|says|saying|reads|written|logo|title|label"),
    ("count", r"two|three|four|five|six|seven|eight|nine|ten|several|pair|dozen|many|\d+"),
    (
        "colour",
        r"red|green|blue|yellow|orange|purple|violet|pink|brown|black|white|gr[ae]y|golden|"
        r"colou?rful|bright|dark",
    ),
    (
        "action",
        r"(?!(?:building|morning|evening|ceiling|king|ring|wing|spring|thing|something|"
        r"anything|everything|during|string|clothing|painting|wedding)\b)\w{2,}ing",
    ),
    ("place", r"in|on|at|under|over|near|beside|behind|between|inside|outside|above|below|by"),
)
_COMPILED = tuple((kind, re.compile(rf"\b(?:{words})\b", re.I)) for kind, words in _PATTERNS)


def kind_of(query: str) -> QueryKind:
    """Return the kind of an English query; the first in :data:`QUERY_KINDS` that fits."""
    return next((kind for kind, pattern in _COMPILED if pattern.search(query)), "other")
