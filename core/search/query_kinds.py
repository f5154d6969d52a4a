"""What a query asks about, by simple lists of English words: they miss some and catch some wrongly.

What each lens is good at differs from kind to kind.
"""

from __future__ import annotations

from typing import Literal, get_args

from core.text import words_of

QueryKind = Literal["negation", "text", "count", "colour", "action", "place"]
"""``text`` is something written in the picture, ``count`` a number of things."""

QUERY_KINDS: tuple[QueryKind, ...] = get_args(QueryKind)


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS: dict[QueryKind, frozenset[str]] = {
    "negation": _word_set("no not without nobody none nothing never isn't aren't empty"),
    "text": _word_set("text word words letter letters sign says saying reads written logo label"),
    "count": _word_set(
        "two three four five six seven eight nine ten both pair couple several many few group "
        "crowd dozen"
    ),
    "colour": _word_set(
        "red orange yellow green blue purple violet pink brown black white grey gray beige tan "
        "golden gold silver maroon turquoise teal blond blonde colorful colourful"
    ),
    "place": _word_set(
        "in on at under over near beside behind between inside outside above below by"
    ),
}
_NOT_ACTIONS = _word_set(
    "building ceiling clothing during evening morning painting railing ring something spring "
    "string swing thing things wedding wing king anything everything bring nothing"
)
"""-ing words that name things or times, not what somebody does."""


def kinds_of(query: str) -> tuple[QueryKind, ...]:
    """Return every kind that a query is of, in the order of :data:`QUERY_KINDS`; maybe none."""
    words = frozenset(words_of(query))
    found = {kind for kind, known in _WORDS.items() if words & known}
    if any(len(w) > 4 and w.endswith("ing") and w not in _NOT_ACTIONS for w in words):
        found.add("action")
    return tuple(kind for kind in QUERY_KINDS if kind in found)
