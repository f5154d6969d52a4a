"""Negation written in words: "a street without cars" is offered as ``a street -cars``.

Encoders hardly read "without": what is to be missing counts as wanted. Simple rules of English find
the thing that is meant; they only make an offer.
"""

from __future__ import annotations

import re

from core.text import one_line

_ANYTHING = "a photo"
"""Stands for what is looked for where the query says only what is not."""

_MOST_WORDS = 3
_NEGATION = re.compile(
    r"""
    (?<![^\s,])
    (?: (?:but\s+|and\s+)? (?:with|has|have|having|showing|wearing)? \s* (?<![^\s,])no
      | (?:but\s+|and\s+)? without
      | (?<!\bis\s)(?<!\bare\s)(?<!\bdo\s)(?<!\bdoes\s)(?<!\bwould\s) (?:but\s+|and\s+)? not
      | except(?:\s+for)?
      | excluding
    )
    \s+ (?:any\s+|a\s+|an\s+|the\s+|other\s+)* (?P<thing>[^\W\d_][^,.;!?]*)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ENDS = frozenset(
    ("in", "on", "at", "of", "with", "and", "or", "but", "near", "by", "from", "to", "for", "over")
    + ("under", "behind", "beside", "between", "around", "while", "that", "who", "which", "is")
    + ("are", "as", "inside", "outside", "through", "during", "visible", "anywhere", "there")
)
_TRAILING = re.compile(
    r"^\s+(?:in\s+(?:it|sight|them)|at\s+all|around|anywhere|there|visible)(?=$|[\s,.;!?])",
    re.IGNORECASE,
)
_NOTICES = frozenset(
    ["smoking", "parking", "entry", "stopping", "trespassing", "swimming", "entrance"]
)
"""What signs forbid: "no parking" is something to see."""
_NO_THINGS = frozenset(
    [
        "only",
        "just",
        "quite",
        "very",
        "really",
        "so",
        "too",
        "one",
        "longer",
        "far",
        "idea",
        "touch",
        "enter",
        "matter",
        "doubt",
        "more",
    ]
)


def without_in_words(query: str) -> str | None:
    """Return the query with what it negates in words subtracted, or None if it negates nothing.

    Args:
        query: Plain words, normalised.
    """
    found = _NEGATION.search(query)
    if found is None:
        return None
    words: list[str] = []
    at = found.start("thing")
    for word in re.finditer(r"[^\s]+", query[at : found.end("thing")]):
        does = words and word[0].endswith("ing")  # what somebody does without it
        if does or word[0].lower() in _ENDS or len(words) == _MOST_WORDS:
            break
        words.append(word[0])
        end = at + word.end()
        if re.search(r"[^s]s$", word[0]):  # mostly a plural, which ends what is named
            break
    if not words or words[0].lower() in _NOTICES | _NO_THINGS or words[-1].lower() == "sign":
        return None
    thing = " ".join(words).strip("\"'-−^:")
    if not thing or '"' in thing:
        return None
    behind = _TRAILING.sub("", query[end:], count=1)
    rest = (
        one_line(f"{query[: found.start()].rstrip(' ,')} {behind}").replace(" ,", ",").strip(" ,.;")
    )
    subtracted = f'-"{thing}"' if len(words) > 1 else f"-{thing}"
    return f"{rest or _ANYTHING} {subtracted}"
