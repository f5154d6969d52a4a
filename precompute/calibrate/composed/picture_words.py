"""Whether a picture and a word together find both, measured on a gallery with references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from core.errors import SourceError
from core.records import LENSES, Lens
from core.search.query_language.compose import weighted_sum
from core.search.query_language.parse import Part
from precompute.calibrate.composed.subtraction import named_in

if TYPE_CHECKING:
    from core.gallery.reader import Gallery
    from core.models.profiles import Models

WEIGHTS = (0.5, 1.0, 2.0, 4.0)
"""Of the word beside a picture of weight 1."""
_DEPTH = 10
_FEWEST_TOGETHER = 10
_MOST_PAIRS = 200
_PICTURES_A_PAIR = 5
_MOST_SHARED = 0.5
"""Of the pictures that show X, how many may show Y: beyond that the word adds nothing."""


@dataclass(frozen=True, slots=True)
class PictureWords:
    """What one way to ask finds, over all queries.

    Attributes:
        lens: Which lens ranks.
        how: The query.
        shows_x: Share of the first 10 pictures of which a reference names X.
        shows_y: Share of which one names Y.
        both: Share of which both are named.
        queries: How many.
    """

    lens: Lens
    how: str
    shows_x: float
    shows_y: float
    both: float
    queries: int


class _Query(NamedTuple):
    """A picture by its row that shows X and not Y, and both as places among the words."""

    row: int
    x: int
    y: int


def measure_picture_words(gallery: Gallery, models: Models) -> list[PictureWords]:
    """Measure queries of a picture that shows X, and the word Y, which it does not show.

    X is named by two or more of the picture's references, Y by none. The words are those that
    come together most often, in 10 pictures or more, without being nearly always together. The
    picture itself is no answer. What a picture shows is what its references name.

    Raises:
        SourceError: The gallery has no references, or too few pictures for it.
    """
    named = [named_in(record.references) for record in gallery.records]
    counts = Counter(word for words in named for word in words)
    words = [word for word, count in counts.most_common() if count >= _FEWEST_TOGETHER]
    shows = np.array([[word in own for word in words] for own in named], dtype=bool)
    surely = np.array(
        [
            [sum(word in named_in([text]) for text in record.references) > 1 for word in words]
            for record in gallery.records
        ],
        dtype=bool,
    )
    asked = _queries(words, shows.reshape(-1, len(words)), surely.reshape(-1, len(words)))
    if not asked:
        raise SourceError(
            f"Nothing can be measured: at least {_FEWEST_TOGETHER} pictures must have references "
            "that name the same two things."
        )
    return [
        found for lens in LENSES for found in _of_lens(gallery, models, lens, words, shows, asked)
    ]


def _queries(words: Sequence[str], shows: np.ndarray, surely: np.ndarray) -> list[_Query]:
    counted = shows.astype(np.int64)
    together = counted.T @ counted
    alone = np.diag(together)
    pairs = [
        (int(x), int(y))
        for x, y in np.argwhere(together >= _FEWEST_TOGETHER)
        if x != y
        and together[x, y] <= _MOST_SHARED * alone[x]
        and not words[x].startswith(words[y])  # the plural of it
        and not words[y].startswith(words[x])
    ]
    pairs.sort(key=lambda pair: (-together[pair], pair))
    dice = np.random.default_rng(0)
    found: list[_Query] = []
    for x, y in pairs[:_MOST_PAIRS]:
        rows = dice.permutation(np.flatnonzero(surely[:, x] & ~shows[:, y]))[:_PICTURES_A_PAIR]
        found += [_Query(int(row), x, y) for row in rows]
    return found


def _of_lens(
    gallery: Gallery,
    models: Models,
    lens: Lens,
    words: Sequence[str],
    shows: np.ndarray,
    asked: Sequence[_Query],
) -> list[PictureWords]:
    encoder = models.sentence if lens == "captions" else models.clip
    pictures = gallery.embeddings(lens)
    of_word = encoder.encode_text(words)

    def measured(how: str, queries: Sequence[np.ndarray]) -> PictureWords:
        scores = np.stack(queries) @ pictures.T
        scores[np.arange(len(asked)), [each.row for each in asked]] = -np.inf
        firsts = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
        x = np.array([shows[rows, each.x] for rows, each in zip(firsts, asked, strict=True)])
        y = np.array([shows[rows, each.y] for rows, each in zip(firsts, asked, strict=True)])
        shares = float(x.mean()), float(y.mean()), float((x & y).mean())
        return PictureWords(lens, how, *shares, len(asked))

    texts = list(dict.fromkeys(f"{words[each.x]} {words[each.y]}" for each in asked))
    of_text = dict(zip(texts, encoder.encode_text(texts), strict=True))
    found = [
        measured("the picture", [pictures[each.row] for each in asked]),
        measured("Y", [of_word[each.y] for each in asked]),
        measured("X Y", [of_text[f"{words[each.x]} {words[each.y]}"] for each in asked]),
    ]
    for weight in WEIGHTS:
        parts = (Part("", 1.0, (), picture="x"), Part("y", weight, ()))
        sums = [weighted_sum(parts, (pictures[each.row], of_word[each.y])) for each in asked]
        found.append(measured(f"the picture, Y^{weight:g}", sums))
    return found


def table(found: Sequence[PictureWords]) -> str:
    """Return the measurements as lines for a terminal."""
    heads = f"{'shows X':>9}{'shows Y':>9}{'both':>7}{'queries':>9}"
    lines = [f"{'lens':<10}{'query':<20}{heads}"]
    lines += [
        f"{each.lens:<10}{each.how:<20}{each.shows_x:>9.1%}{each.shows_y:>9.1%}{each.both:>7.1%}"
        f"{each.queries:>9}"
        for each in found
    ]
    return "\n".join(lines)
