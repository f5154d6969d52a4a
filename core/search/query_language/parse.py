"""One parser for what a visitor types: ``dog -grass``, ``"red bus"^2``, ``like:PICTURE``.

Words without any of this are one part of weight 1, exactly as they were typed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from core.errors import QueryError
from core.search.query_language.filters import Filter, find_filters
from core.text import has_content

SUBTRACTED = 0.75
"""Weight of a part that is subtracted, unless it has one of its own; ``composed`` measures it."""

MOST_PARTS = 8
"""Most parts of one query; each is embedded."""

_LEAST_WEIGHT, _MOST_WEIGHT = 0.1, 10.0

_SYNTAX = re.compile(r"[-−^:]")
_LIKE = re.compile(r"(?<!\S)[-−]?like:(\S+)")
_TOKEN = re.compile(
    r"""
    (?<!\S)(?P<minus>[-−])?
    (?: like:(?P<picture>[0-9a-f]{16})
      | "(?P<phrase>[^"]*[^\W_][^"]*)"
      | (?P<word>[^\W\d_](?:[^\s"^]*[^\W_])?)
    )
    (?:\^(?P<weight>\d{1,6}(?:\.\d{1,6})?))?
    (?=$|[\s,.;!?])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a query, embedded by itself.

    Attributes:
        text: Words; "" for a picture.
        picture: Id of a picture of the gallery; "" for words.
        weight: Of its unit embedding in the sum; negative where it is subtracted.
        spans: Where it stands in the query: of all that belongs to it, minus and weight too. The
            words that are left over are one part, which may lie in several places.
        words_at: Where its words alone stand.
    """

    text: str
    weight: float
    spans: tuple[tuple[int, int], ...]
    words_at: tuple[tuple[int, int], ...] = ()
    picture: str = ""

    @property
    def label(self) -> str:
        """How it is shown, as ``−grass`` or ``red bus ×2``."""
        usual = SUBTRACTED if self.weight < 0 else 1.0
        factor = abs(self.weight) / usual
        times = "" if factor == 1 else f" ×{factor:g}"
        return f"{'−' if self.weight < 0 else ''}{self.text}{times}"


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """A query and its parts.

    Attributes:
        text: Normalised, as it was typed.
        parts: At least one of them not subtracted; the words that belong to no other part come
            first. None where filters are all there is: then nothing is ranked.
        filters: What a picture must meet to be ranked.
    """

    text: str
    parts: tuple[Part, ...]
    filters: tuple[Filter, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it is words alone, embedded as they are."""
        return len(self.parts) == 1 and not self.parts[0].picture and self.parts[0].weight == 1

    @property
    def words(self) -> str:
        """The words that are looked for, those of pictures and subtracted ones left out."""
        return " ".join(part.text for part in self.parts if part.text and part.weight > 0)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Ids of the pictures that are parts."""
        return tuple(part.picture for part in self.parts if part.picture)

    def without(self, *taken: Part | Filter) -> str:
        """Return the query with some parts and filters taken out."""
        spans = [each.spans if isinstance(each, Part) else (each.span,) for each in taken]
        return remove_spans(self.text, tuple(span for own in spans for span in own))


def remove_spans(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    """Return a text without some stretches of it, as one line."""
    kept, at = [], 0
    for start, end in sorted(spans):
        kept.append(text[at:start])
        at = end
    kept.append(text[at:])
    return " ".join("".join(kept).split()).replace(" ,", ",").strip(" ,")


@lru_cache(maxsize=256)
def parse_query(text: str) -> ParsedQuery:
    """Return the parts of a normalised query; what is no syntax is words.

    ``-word`` and ``-"some words"`` subtract, ``word^2`` and ``"some words"^2`` weigh,
    ``like:PICTURE`` and ``-like:PICTURE`` add and subtract a picture by its id; filters are those
    of :mod:`core.search.query_language.filters`. Hyphens inside a word, quotes alone, and whatever
    does not fit this are words.

    Args:
        text: From :func:`core.search.query.normalise_query`.

    Raises:
        QueryError: A weight or a filter's value is not possible, something that is no id is taken
            for a picture's, there are too many parts, or none is looked for.
    """
    if not _SYNTAX.search(text):
        return _plain(text)
    filters = find_filters(text)
    words_only = _blanked(text, filters)
    _check_pictures(words_only)
    parts: list[Part] = []
    rest, at = [], 0
    for token in _TOKEN.finditer(words_only):
        if not (token["minus"] or token["picture"] or token["weight"]):
            continue
        rest.append((at, token.start()))
        at = token.end()
        weight = _weight(token["weight"]) * (-SUBTRACTED if token["minus"] else 1.0)
        parts.append(_part(token, weight))
    rest.append((at, len(text)))
    if not parts and not filters:
        return _plain(text)
    places = tuple(_trimmed(words_only, *span) for span in rest)
    places = tuple(span for span in places if span[0] < span[1])
    words = " ".join(" ".join(words_only[start:end] for start, end in places).split())
    if words:
        parts.insert(0, Part(words, 1.0, places, places))
    _check(parts)
    return ParsedQuery(text, tuple(parts), filters)


def _blanked(text: str, filters: Sequence[Filter]) -> str:
    """Return a text of the same length with spaces in the place of filters."""
    for each in filters:
        start, end = each.span
        text = f"{text[:start]}{' ' * (end - start)}{text[end:]}"
    return text


def _plain(text: str) -> ParsedQuery:
    whole = ((0, len(text)),)
    return ParsedQuery(text, (Part(text, 1.0, whole, whole),))


def _part(token: re.Match[str], weight: float) -> Part:
    if token["picture"]:
        return Part("", weight, (token.span(),), picture=token["picture"])
    kind = "phrase" if token["phrase"] else "word"
    return Part(token[kind].strip(), weight, (token.span(),), (token.span(kind),))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the stretch without spaces and loose commas at its ends."""
    while start < end and text[start] in " ,;":
        start += 1
    while start < end and text[end - 1] in " ,;":
        end -= 1
    return (start, end) if has_content(text[start:end]) else (start, start)


def _weight(given: str | None) -> float:
    weight = 1.0 if given is None else float(given)
    if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise QueryError(
            f"A weight (^) must be between {_LEAST_WEIGHT:g} and {_MOST_WEIGHT:g}; got {given}."
        )
    return weight


def _check(parts: list[Part]) -> None:
    if len(parts) > MOST_PARTS:
        raise QueryError(f"A query has at most {MOST_PARTS} parts; this one has {len(parts)}.")
    if parts and all(part.weight < 0 for part in parts):
        raise QueryError("Say also what you are looking for: a query cannot only leave out.")


def _check_pictures(words: str) -> None:
    """Raise QueryError if a picture is named by what is no id."""
    for named in _LIKE.finditer(words):
        token = _TOKEN.match(words, named.start())
        if token is None or not token["picture"]:
            raise QueryError(
                "like: takes a picture's id, which “More like this” writes; "
                f"{named[1][:40]!r} is none."
            )
