"""Choosing the score under which a lens's best hit is no match, and measuring what that catches."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import SourceError
from core.files import write_atomically
from core.models.locate import revision_of
from core.models.match_threshold import read_thresholds
from core.records import LENSES, Lens

if TYPE_CHECKING:
    from core.gallery.reader import Gallery
    from core.models.profiles import Models

_NONSENSE = 200
_FEWEST_QUERIES = 40
_WORDS_TYPED = 3
FUNCTION_WORDS = {
    *("a", "an", "the", "and", "or", "of", "in", "on", "at", "by", "to", "for", "from", "with"),
    *("into", "near", "next", "over", "under", "up", "down", "out", "as", "while", "it", "its"),
    *("his", "her", "their", "that", "this", "there", "some", "who", "is", "are", "was", "were"),
    *("be", "being", "has", "have", "having"),
}
OTHER_LANGUAGES = (
    *("un perro en la playa", "dos niños jugando en la calle", "una taza de café sobre la mesa"),
    *("ein Hund rennt am Strand", "eine rote Straßenbahn", "zwei Kinder spielen im Schnee"),
    *("un chat sur un canapé", "des gens qui mangent", "une voiture garée dans la rue"),
    *("犬が走っている", "赤いバス", "собака бежит по снегу", "кот на диване"),
    *("um homem andando de bicicleta", "kobieta czyta książkę", "海滩上的两个孩子"),
)
EMOJI = ("🚀", "🐕", "❤️", "🍕🍕", "😀", "🏖️", "🚌", "🎉🎉🎉")
NOT_IN_PHOTOS = (
    *("quarterly revenue forecast", "the meaning of life", "quantum entanglement"),
    *("how to file a tax return", "stock market crash", "kubernetes deployment manifest"),
    *("integral of x squared", "parliamentary elections", "macbeth, second act", "the year 1848"),
)


@dataclass(frozen=True, slots=True)
class MatchChoice:
    """A threshold, and what it does to the queries that it was measured on.

    Attributes:
        lens: Whose best hits it judges.
        below: A best hit that scores less is no match.
        good: Queries whose picture is in the gallery: captions, and what is left of them when
            they are cut short as visitors type.
        flagged: Share of them that a threshold chosen on the other half of the pictures flags.
        caught: Share that is caught of queries without a picture, by kind.
    """

    lens: Lens
    below: float
    good: int
    flagged: float
    caught: dict[str, float]


def choose_thresholds(
    gallery: Gallery, models: Models, others: Sequence[str], share: float
) -> list[MatchChoice]:
    """Choose for each lens the score under which a share of the good queries' best hits lie.

    The good queries are the gallery's references and their short forms. Nothing of the other
    queries enters the choice: what is caught of them is a measurement.

    Args:
        gallery: With reference captions, of photos that the models were not trained on.
        models: What embeds its queries.
        others: Captions of pictures of another domain.
        share: Of the good queries that may be flagged, in (0, 1).

    Raises:
        SourceError: The gallery has too few references.
    """
    written = [text for record in gallery.records for text in record.references]
    if len(written) < _FEWEST_QUERIES:
        raise SourceError(
            f"{gallery.name} has {len(written)} reference captions; {_FEWEST_QUERIES} are needed."
        )
    rows = 2 * [row for row, record in enumerate(gallery.records) for _ in record.references]
    texts = written + [as_typed(text) for text in written]
    kinds = {"nonsense": nonsense(), "other languages": OTHER_LANGUAGES, "emoji": EMOJI}
    kinds["not in photos"] = NOT_IN_PHOTOS
    if others:
        kinds["another domain"] = others
    choices = []
    for lens in LENSES:
        encoder = models.sentence if lens == "captions" else models.clip
        best, without = _best_scores(gallery, lens, encoder.encode_text(texts), rows)
        below = _threshold(best, share)
        caught = {"photo removed": float((without < below).mean())}
        for kind, queries in kinds.items():
            scores, _ = _best_scores(gallery, lens, encoder.encode_text(list(queries)))
            caught[kind] = float((scores < below).mean())
        choices.append(
            MatchChoice(lens, below, len(texts), _flagged(best, np.array(rows), share), caught)
        )
    return choices


def _best_scores(
    gallery: Gallery, lens: Lens, queries: np.ndarray, rows: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's best score, and the best without the picture of its row."""
    rankings = gallery.exact_index(lens).search(queries, 2)
    best = np.array([hits[0].score for hits in rankings])
    own = [gallery.records[row].id for row in rows]
    without = [
        hits[1 if hits[0].id == image_id else 0].score
        for hits, image_id in zip(rankings, own, strict=False)
    ]
    return best, np.array(without)


def _threshold(best: np.ndarray, share: float) -> float:
    """Return a score under which at most a share of the best hits lie."""
    return round(float(np.quantile(best, share, method="lower")), 4)


def _flagged(best: np.ndarray, rows: np.ndarray, share: float) -> float:
    """Return the share that is flagged when each half of the pictures chooses for the other."""
    half = rows % 2 == 0
    low = np.where(half, _threshold(best[~half], share), _threshold(best[half], share))
    return float((best < low).mean())


def as_typed(caption: str) -> str:
    """Return a caption as a hurried visitor would type it: its first words that name something."""
    words = re.findall(r"\w+", caption.lower())
    named = [word for word in words if word not in FUNCTION_WORDS]
    return " ".join(named[:_WORDS_TYPED]) or caption


def nonsense() -> list[str]:
    """Return words of random letters, always the same."""
    drawn = random.Random(0)

    def word() -> str:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return "".join(drawn.choice(letters) for _ in range(drawn.randint(3, 9)))

    return [" ".join(word() for _ in range(drawn.randint(1, 3))) for _ in range(_NONSENSE)]


def write_thresholds(
    path: Path, choices: Sequence[MatchChoice], models: Models, chosen_on: str
) -> None:
    """Put thresholds, and what was measured, into a file; those of other models stay.

    Args:
        path: :data:`core.models.match_threshold.MATCH_FILE`.
        choices: One a lens.
        models: Whose they are.
        chosen_on: Name of the gallery.
    """
    content = read_thresholds(path)
    for choice in choices:
        model = models.profile.sentence if choice.lens == "captions" else models.profile.clip
        content.setdefault(choice.lens, {})[revision_of(model)] = {
            "below": choice.below,
            "model": model.name,
            "chosen_on": f"{chosen_on}, {choice.good} queries",
            "good_flagged": round(choice.flagged, 3),
            "caught": {kind: round(share, 3) for kind, share in choice.caught.items()},
        }
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    read_thresholds.cache_clear()


def summary(choice: MatchChoice) -> str:
    """Return what was measured, as lines for a terminal."""
    caught = ", ".join(f"{kind} {share:.0%}" for kind, share in choice.caught.items())
    return (
        f"{choice.lens}: a best score under {choice.below:.3f} is no match.\n"
        f"  {choice.good} queries whose photo is there: {choice.flagged:.1%} are flagged "
        "(threshold chosen on the other half of the photos).\n"
        f"  Caught of queries without a photo: {caught}."
    )
