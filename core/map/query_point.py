"""Where a query stands on a map: among its nearest pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEAREST = 10
"""Pictures that a query stands among."""


def place_among(
    coordinates: np.ndarray, rows: Sequence[int], scores: Sequence[float]
) -> np.ndarray:
    """Return the place of a query: the mean of its nearest pictures' places, weighted by score.

    The lowest score has the weight 0 unless all are equal: what sets the first hits apart counts,
    not the level that all scores of a model share.

    Args:
        coordinates: float32 (n, 2).
        rows: Its hits, at least one, of which the first :data:`NEAREST` and the next one count.
        scores: Of these hits.

    Returns:
        float64 (2,).
    """
    taken = np.asarray(rows[: NEAREST + 1], dtype=np.int64)
    weights = np.asarray(scores[: NEAREST + 1], dtype=np.float64)
    weights = weights - weights.min()
    if not weights.any():
        weights = np.ones(len(taken))
    place: np.ndarray = weights @ coordinates[taken] / weights.sum()
    return place
