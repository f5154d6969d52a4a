"""How well captions find their own image: recall at 1, 5 and 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from precompute.sources.pairs import Pairs


@dataclass(frozen=True, slots=True)
class Recall:
    """Text-to-image recall.

    Attributes:
        source: The source and split.
        images: Images that were ranked.
        queries: Captions that were searched.
        at_1: Share of the queries, in percent, whose own image came first.
        at_5: Likewise, among the first five.
        at_10: Likewise, among the first ten.
    """

    source: str
    images: int
    queries: int
    at_1: float
    at_5: float
    at_10: float

    def __str__(self) -> str:
        """Return one line for a terminal."""
        return (
            f"{self.source}: R@1 {self.at_1:.1f} / R@5 {self.at_5:.1f} / R@10 {self.at_10:.1f} % "
            f"({self.images} images, {self.queries} queries)"
        )

    def as_json(self) -> dict[str, object]:
        """Return the figures as JSON values."""
        return asdict(self)


def recall(source: str, images: np.ndarray, texts: np.ndarray, owners: Sequence[int]) -> Recall:
    """Rank all images for every text by inner product; ties count against the own image.

    Args:
        source: Name for the report.
        images: (n, dim).
        texts: (q, dim).
        owners: For each text, the row of its own image.
    """
    scores = texts @ images.T
    own = scores[np.arange(len(texts)), np.asarray(owners)]
    ranks = (scores >= own[:, None]).sum(axis=1)
    at_1, at_5, at_10 = (round(float((ranks <= k).mean()) * 100, 2) for k in (1, 5, 10))
    return Recall(source, len(images), len(texts), at_1, at_5, at_10)


def owners_of(pairs: Pairs) -> list[int]:
    """Return, for every caption in order, the row of its image."""
    return [row for row, captions in enumerate(pairs.captions) for _ in captions]
