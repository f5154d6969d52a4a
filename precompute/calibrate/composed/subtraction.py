"""Whether ``X -Y`` leaves out Y and keeps X, by weight, measured on a gallery with references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import SourceError
from core.records import LENSES, Lens
from core.search.query_language.compose import weighted_sum
from core.search.query_language.parse import Part
from core.text import words_of
from precompute.calibrate.match import FUNCTION_WORDS

if TYPE_CHECKING:
    from core.gallery.reader import Gallery
    from core.models.profiles import Models

WEIGHTS = (0.25, 0.5, 0.75, 1.0)
_DEPTH = 10
_FEWEST_PICTURES = 10
_MOST_PAIRS = 400
_USUAL_SHARE = (0.2, 0.8)
"""Of the first pictures for X, how many may show Y: seldom means nothing to leave out, always
that both are the same."""


@dataclass(frozen=True, slots=True)
class Subtraction:
    """What one way to say "X, but no Y" finds, over all pairs.

    Attributes:
        lens: Which lens ranks.
        how: The query: ``X``, ``X without Y``, or ``X -Y`` by weight.
        wanted: Share of the first 10 pictures of which a reference names X.
        unwanted: Share of which one names Y.
        meant: Share of which one names X and none Y: what was asked for.
        pairs: How many pairs of words.
    """

    lens: Lens
    how: str
    wanted: float
    unwanted: float
    meant: float
    pairs: int


def measure_subtraction(gallery: Gallery, models: Models) -> list[Subtraction]:
    """Measure on the words that people use of a gallery's pictures.

    A pair is two words of which the second is named of 2 to 8 of the first 10 pictures that a lens
    finds for the first one. What a picture shows is what its references name, whatever its
    generated caption says.

    Raises:
        SourceError: The gallery has no references, or too few pictures.
    """
    named = [named_in(record.references) for record in gallery.records]
    counts = Counter(word for words in named for word in words)
    words = [word for word, count in counts.most_common() if count >= _FEWEST_PICTURES]
    if not words:
        raise SourceError(
            f"Nothing can be measured: at least {_FEWEST_PICTURES} pictures must have references "
            "that share a word."
        )
    shows = {word: np.array([word in own for own in named]) for word in words}
    return [found for lens in LENSES for found in _of_lens(gallery, models, lens, words, shows)]


def named_in(references: Sequence[str]) -> frozenset[str]:
    """Return the words of some references, but for those that name nothing."""
    return frozenset(word for text in references for word in words_of(text)) - FUNCTION_WORDS


def _of_lens(
    gallery: Gallery,
    models: Models,
    lens: Lens,
    words: Sequence[str],
    shows: dict[str, np.ndarray],
) -> list[Subtraction]:
    encoder = models.sentence if lens == "captions" else models.clip
    embeddings = dict(zip(words, encoder.encode_text(words), strict=True))
    firsts = _firsts(gallery, lens, [embeddings[word] for word in words])
    pairs: list[tuple[str, str]] = []
    for word, rows in zip(words, firsts, strict=True):
        shares = {other: shows[other][rows].mean() for other in words if other != word}
        low, high = _USUAL_SHARE
        pairs += [(word, other) for other, share in shares.items() if low <= share <= high]
    pairs = sorted(pairs, key=lambda pair: -min(shows[word].sum() for word in pair))[:_MOST_PAIRS]

    def measured(how: str, queries: list[np.ndarray]) -> Subtraction:
        ranked = _firsts(gallery, lens, queries)
        each = zip(pairs, ranked, strict=True)
        shown = [(shows[x][rows], shows[y][rows]) for (x, y), rows in each]
        wanted, unwanted = (np.mean(found) for found in zip(*shown, strict=True))
        meant = np.mean([x & ~y for x, y in shown])
        return Subtraction(lens, how, float(wanted), float(unwanted), float(meant), len(pairs))

    found = [measured("X", [embeddings[x] for x, _ in pairs])]
    texts = [f"{x} without {y}" for x, y in pairs]
    found.append(measured("X without Y", list(encoder.encode_text(texts))))
    for weight in WEIGHTS:
        parts = (Part("x", 1.0, ()), Part("y", -weight, ()))
        sums = [weighted_sum(parts, (embeddings[x], embeddings[y])) for x, y in pairs]
        found.append(measured(f"X -Y at {weight:g}", sums))
    return found


def _firsts(gallery: Gallery, lens: Lens, queries: Sequence[np.ndarray]) -> list[list[int]]:
    rankings = gallery.exact_index(lens).search(np.stack(queries), _DEPTH)
    return [[gallery.row(hit.id) for hit in hits] for hits in rankings]


def table(found: Sequence[Subtraction]) -> str:
    """Return the measurements as lines for a terminal."""
    lines = [f"{'lens':<10}{'query':<14}{'shows X':>9}{'shows Y':>9}{'X, no Y':>9}{'pairs':>7}"]
    lines += [
        f"{each.lens:<10}{each.how:<14}{each.wanted:>9.0%}{each.unwanted:>9.0%}"
        f"{each.meant:>9.1%}{each.pairs:>7}"
        for each in found
    ]
    return "\n".join(lines)
