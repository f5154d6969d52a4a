"""A third lens in a row of its own, once a visitor adds it: words in captions, by BM25."""

from __future__ import annotations

from core.search.bm25.word_lens import words_in_captions
from core.search.query_language.parse import ParsedQuery
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.parts.markup import escape, explained
from core.ui.parts.results.cards import Standing, card, score_facts

WORDS = "words"
"""Says, in a view and its address, that this row is shown."""

_HELP = (
    "BM25, what search engines used before embeddings: captions that share words with yours, rare "
    "words count more, endings do not. It knows no synonyms, and its scores have no upper bound."
)


def word_row(
    entry: ShelvedGallery, query: ParsedQuery, standing: Standing, k: int, without: str = ""
) -> str:
    """Return the row, with a button that takes it away.

    Args:
        entry: The gallery.
        query: What was asked.
        standing: Where both lenses ranked the pictures.
        k: Pictures of the row.
        without: What is shown beside both lenses then.
    """
    found = words_in_captions(entry.gallery, query, k)
    top = found.hits[0].score if found.hits else 1.0
    items = "".join(
        card(
            entry,
            hit.id,
            standing,
            facts=score_facts(hit.rank, hit.score, (0.0, top)),
            caption=True,
            nearest=standing.nearest_caption(hit.id),
        )
        for hit in found.hits
    )
    shown = f'<ol class="tl-row">{items}</ol>' if items else ""
    if not items:
        shown = '<p class="tl-note">No caption has one of these words.</p>'
    return (
        '<section class="tl-lens plain wide tl-words" aria-label="Words in captions, BM25">'
        f'<header class="tl-lens-head"><h2>Words in captions <small>{explained("BM25", _HELP)}'
        f"</small></h2>{switch(without, 'Hide', query.text)}</header>{shown}</section>"
    )


def switch(more: str, label: str, query: str) -> str:
    """Return a button after which ``more`` is shown beside both lenses."""
    return (
        f'<button type="button" class="tl-chip" data-more="{more}" '
        f'data-words="{escape(query)}">{escape(label)}</button>'
    )
