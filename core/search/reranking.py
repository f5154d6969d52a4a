"""The first of a ranking in a new order, by a model that looks at picture and words together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.records import Hit

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.models.matcher import Matcher

RERANKED = 20
"""How many of the first pictures are looked at: each costs a pass of the model."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """The first pictures of a ranking, before and after.

    Attributes:
        before: As the lens ranked them.
        after: The same pictures; the score is the probability of a match, by the model.
        seconds: What reading and scoring them took; the first time, loading the model too.
    """

    before: tuple[Hit, ...]
    after: tuple[Hit, ...]
    seconds: float


def rerank(
    matcher: Matcher, query: str, hits: Sequence[Hit], picture: Callable[[str], Image]
) -> Reranking:
    """Order the first :data:`RERANKED` hits anew; equal scores stay in their order.

    Args:
        matcher: What scores them.
        query: Plain words.
        hits: Best first.
        picture: Returns a picture by its id, RGB and upright.

    Raises:
        ModelError: The model cannot be loaded.
    """
    first = tuple(hits[:RERANKED])
    started = time.perf_counter()
    margins = matcher.match([picture(hit.id) for hit in first], query)
    seconds = time.perf_counter() - started
    chances = 1 / (1 + np.exp(-margins.astype(np.float64)))
    order = np.argsort(-margins, kind="stable")
    after = tuple(
        Hit(first[row].id, float(chances[row]), rank) for rank, row in enumerate(order, start=1)
    )
    return Reranking(first, after, seconds)
