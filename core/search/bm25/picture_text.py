"""The text in pictures as a lens: BM25 over runs of three letters, so that misread words count too.

A reader of signs confuses letters ("HETLLO", "DAKLEY") and drops what is half hidden ("ohnny's");
most runs of three letters survive that. A picture is found only if one of its words is nearly a
word of the query: by runs alone any two long texts have something in common.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from core.records import Hit
from core.search.bm25.word_index import WordIndex
from core.search.query_language.parse import ParsedQuery

ALIKE = 0.5
"""Share of runs that two words have in common (Dice) from which one may be the other, misread."""
_WORD = re.compile(r"[^\W_]+")
_SMALL_WORDS = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on")
    + ("or", "read", "reads", "reading", "say", "says", "saying", "sign", "that", "the", "this")
    + ("to", "with", "word", "words", "written")
)
"""Of a query: words that are everywhere, and those that say that something is written."""


@dataclass(frozen=True, slots=True)
class TextHit:
    """A picture that was found by the text in it.

    Attributes:
        hit: Its place and score; a score has no upper bound.
        words: The words in it that are nearly words of the query, in order, none twice.
        share: Of the query's words, those that are nearly in it: above 0, at most 1.
    """

    hit: Hit
    words: tuple[str, ...]
    share: float


class TextIndex:
    """Ranks pictures by the text in them. Safe for many threads.

    Args:
        texts: What is read in each picture that has text, by its id, in row order.

    Raises:
        MissingDependencyError: bm25s is not installed.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Index the texts."""
        self._texts = dict(texts)
        self._ids = tuple(texts)
        self._runs = WordIndex(tuple(texts.values()), _runs_of)

    def search(
        self, query: ParsedQuery, k: int, allowed: Callable[[str], bool] | None = None
    ) -> list[TextHit]:
        """Return the pictures whose text is nearly the query's, best first; ties in row order.

        Args:
            query: Its parts weigh as they say.
            k: Hits wanted.
            allowed: Tells by its id whether a picture may be found; None allows all.
        """
        found: list[TextHit] = []
        for hit in self._runs.search(query, self._ids, len(self._ids)):
            words, share = _shared(query.words, self._texts[hit.id])
            if words and (allowed is None or allowed(hit.id)):
                placed = Hit(hit.id, hit.score, len(found) + 1)
                found.append(TextHit(placed, words, share))
            if len(found) == k:
                break
        return found


def shared_words(query: str, text: str) -> tuple[str, ...]:
    """Return the words of a picture's text that are nearly a word of a query, none twice."""
    return _shared(query, text)[0]


def share_of(query: str, text: str) -> float:
    """Return the share of a query's words that are nearly in a picture's text, from 0 to 1."""
    return _shared(query, text)[1]


def _shared(query: str, text: str) -> tuple[tuple[str, ...], float]:
    asked = [_runs(word) for word in _words(query) if word not in _SMALL_WORDS]
    found: dict[str, None] = {}
    there: set[int] = set()
    for match in _WORD.finditer(text):
        own = _runs(_folded(match[0]))
        for place, runs in enumerate(asked):
            if 2 * len(own & runs) >= ALIKE * (len(own) + len(runs)):
                found.setdefault(match[0])
                there.add(place)
    return tuple(found), len(there) / max(1, len(asked))


def _runs_of(texts: Sequence[str]) -> list[list[str]]:
    return [
        [run for word in _words(text) if word not in _SMALL_WORDS for run in sorted(_runs(word))]
        for text in texts
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(_folded(text))


def _folded(text: str) -> str:
    """Return a text in lower case, without accents; ß is ss."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


@lru_cache(maxsize=50_000)
def _runs(word: str) -> frozenset[str]:
    """Return the runs of three letters of a word, with marks for where it begins and ends."""
    marked = f"^{word}$"
    return frozenset(marked[start : start + 3] for start in range(len(marked) - 2))
