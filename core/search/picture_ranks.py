"""Where one picture stands among all for a query, and where it would with another caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.records import Fusion, Lens
from core.search.fusion import normalised
from core.search.hub_scores import HubScored, hub_penalties
from core.search.query_language.compose import Embedded, embed_query

if TYPE_CHECKING:
    from core.models.profiles import Models


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a ranking of all pictures.

    Attributes:
        score: Higher is better.
        rank: From 1; of equal scores all have the best rank.
    """

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Edited:
    """What another caption changes.

    Attributes:
        captions: Place in the caption lens, as it is and with the other caption.
        fused: Place in the sum of both lenses, likewise; None for a fusion by rank.
        pictures: How many there are.
    """

    captions: tuple[Place, Place]
    fused: tuple[Place, Place] | None
    pictures: int


class AllScored(Embedded, HubScored, Protocol):
    """What an edit needs of a gallery."""

    def all_scores(self, lens: Lens, query: np.ndarray) -> np.ndarray:
        """Return the scores of all pictures for a query: float32 (n,)."""
        ...


def place_of(models: Models, pictures: AllScored, lens: Lens, query: str, image_id: str) -> Place:
    """Return where a lens ranks a picture for a query.

    Raises:
        UnknownImageError: No such id.
        ModelError: The lens's encoder cannot be loaded.
    """
    row = pictures.row(image_id)
    return _place(pictures.all_scores(lens, embed_query(models, pictures, lens, query)), row)


def with_caption(
    models: Models, pictures: AllScored, query: str, image_id: str, caption: str, fusion: Fusion
) -> Edited:
    """Rank a picture as if it had one caption, this one.

    Args:
        models: What the pictures were embedded with.
        pictures: The gallery.
        query: Normalised.
        image_id: Of the picture.
        caption: The caption to try.
        fusion: How the lenses are joined.

    Raises:
        UnknownImageError: No such id.
        ModelError: An encoder cannot be loaded.
    """
    row = pictures.row(image_id)
    asked = embed_query(models, pictures, "captions", query)
    captions = pictures.all_scores("captions", asked)
    changed = captions.copy()
    changed[row] = models.sentence.encode_text([caption])[0] @ asked
    places = _place(captions, row), _place(changed, row)
    fused = None
    if fusion.standardises or fusion.kind == "cosine":
        clip = pictures.all_scores("clip", embed_query(models, pictures, "clip", query))
        owed = np.zeros(1)
        if fusion.kind == "corrected":
            owed = hub_penalties(models, pictures)
        sums = [_fused(fusion, own, clip, owed) for own in (captions, changed)]
        fused = _place(sums[0], row), _place(sums[1], row)
    return Edited(places, fused, len(captions))


def _fused(fusion: Fusion, captions: np.ndarray, clip: np.ndarray, owed: np.ndarray) -> np.ndarray:
    said, seen = (own.astype(np.float64)[None] for own in (captions, clip))
    whole = fusion.fuse(normalised(said, fusion.kind), normalised(seen, fusion.kind, owed))
    fused: np.ndarray = whole[0]
    return fused


def _place(scores: np.ndarray, row: int) -> Place:
    return Place(float(scores[row]), 1 + int((scores > scores[row]).sum()))
