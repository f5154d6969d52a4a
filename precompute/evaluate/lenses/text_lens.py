"""The text in the pictures as a lens of its own, and what it would add to both lenses joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.gallery.figures.metrics_file import LensName
from core.records import LENSES, Fusion
from core.search.fusion import TEXT_WEIGHT, normalised
from core.search.query_language.parse import parse_query

if TYPE_CHECKING:
    from core.search.bm25.picture_text import TextIndex
    from precompute.evaluate.queries import AskedQueries
    from precompute.evaluate.rankings import Scorer


def text_scorers(asked: AskedQueries, fusion: Fusion) -> dict[LensName, Scorer]:
    """Return ``text`` and ``fused_text``; nothing for a gallery whose text was not read.

    Args:
        asked: The queries.
        fusion: How the profile joins the lenses; one by rank is replaced by a z-score sum.
    """
    gallery = asked.gallery
    if gallery.manifest.text_reader is None:
        return {}
    index = gallery.text_index
    joined = fusion if fusion.standardises else Fusion("zscore")
    owed = 0.0 if asked.owed is None else asked.owed
    lenses = [asked.scorer(lens) for lens in LENSES]

    def text(block: slice) -> np.ndarray:
        return _scores(asked, index, block)[0]

    def fused(block: slice) -> np.ndarray:
        captions, clip = (lens(block) for lens in lenses)
        both = normalised(captions, joined.kind), normalised(clip, joined.kind, owed)
        added = TEXT_WEIGHT * _scores(asked, index, block)[1]
        return (joined.fuse(*both) + added).astype(np.float32)

    return {"text": text, "fused_text": fused}


def _scores(asked: AskedQueries, index: TextIndex, block: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return the text's score, and the share of the query's words that it has: (rows, pictures)."""
    gallery = asked.gallery
    queries = asked.queries.queries[block]
    scores = np.zeros((len(queries), len(gallery)), dtype=np.float32)
    shares = np.zeros_like(scores)
    for row, query in enumerate(queries):
        for found in index.search(parse_query(query.text), len(gallery)):
            place = gallery.row(found.hit.id)
            scores[row, place], shares[row, place] = found.hit.score, found.share
    return scores, shares
