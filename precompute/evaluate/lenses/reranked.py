"""CLIP with its first pictures reranked by image-text matching, as the page offers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.config import get_settings
from core.errors import SourceError
from core.images.decode import DecodeLimits, decode
from core.models.matcher import ImageTextMatcher
from core.search.reranking import RERANKED

if TYPE_CHECKING:
    from core.models.matcher import Matcher
    from precompute.evaluate.queries import AskedQueries
    from precompute.evaluate.rankings import Scorer

_ABOVE = 2.0
"""More than any cosine: what was reranked stays before what was not."""


def reranked_scorer(asked: AskedQueries, matcher: Matcher) -> Scorer:
    """Score as CLIP does, but the first :data:`RERANKED` of each query by the matching model.

    Each picture goes once through the image tower, with all queries that have it among their first.

    Args:
        asked: The queries.
        matcher: The model.

    Raises:
        ModelError: It cannot be loaded.
    """
    if not isinstance(matcher, ImageTextMatcher):
        raise SourceError(f"{matcher.spec.name} cannot be measured here.")
    queries, images = len(asked), len(asked.gallery)
    clip = asked.scorer("clip")
    depth = min(RERANKED, images)
    first = np.empty((queries, depth), dtype=np.int64)
    for start in range(0, queries, 256):
        part = slice(start, min(start + 256, queries))
        first[part] = np.argsort(-clip(part), axis=1, kind="stable")[:, :depth]
    margins = np.empty((queries, depth), dtype=np.float32)
    texts = [query.text for query in asked.queries.queries]
    limits = DecodeLimits.of(get_settings())
    for image in np.unique(first).tolist():
        rows, places = np.nonzero(first == image)
        record = asked.gallery.records[image]
        large = asked.gallery.has_large(record.id)
        read = asked.gallery.read_large if large else asked.gallery.read_thumbnail
        picture = decode(read(record.id), record.file_name, limits).image
        margins[rows, places] = matcher.match_texts(picture, [texts[row] for row in rows])

    def score(block: slice) -> np.ndarray:
        scores = clip(block).copy()
        # Of equal margins the one that CLIP had before stays before.
        best = np.argsort(-margins[block], axis=1, kind="stable")
        places = np.take_along_axis(first[block], best, axis=1)
        downwards = np.arange(depth, 0, -1, dtype=scores.dtype)[np.newaxis]
        np.put_along_axis(scores, places, _ABOVE + downwards, axis=1)
        return scores

    return score
