"""Where each lens ranks the pictures for a query, further down than the page shows."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import ModelError
from core.records import Hit, Lens
from core.ui.parts.cards import RANKS_LOOKED_AT, Standing
from core.ui.parts.shelf import ShelvedGallery


def standing_of(entry: ShelvedGallery, query: str, lenses: Sequence[Lens]) -> Standing:
    """Return the first hits of each lens; a lens whose model cannot load is left out.

    The query's embedding is already cached when this is called after a search, so it costs one
    more look into a flat index.
    """
    hits: dict[Lens, dict[str, Hit]] = {}
    for lens in lenses:
        try:
            result = entry.service.by_text(query, k=RANKS_LOOKED_AT, lens=lens)
        except ModelError:
            continue
        hits[lens] = {hit.id: hit for hit in result.hits}
    return Standing(query, hits)
