"""A third lens in a row of its own, once a visitor adds it: words in captions, by BM25."""

from __future__ import annotations

from core.search.query_language.parse import ParsedQuery
from core.search.word_lens import words_in_captions
from core.ui.parts.cards import Standing, card, score_facts
from core.ui.parts.markup import escape, explained, milliseconds
from core.ui.parts.shelf import ShelvedGallery

WORDS = "words"
"""Says, in a view and its address, that this row is shown."""

_HELP = (
    "BM25, what search engines used before embeddings: captions that share words with yours, rare "
    "words count more, endings do not. It knows no synonyms, and its scores have no upper bound."
)


def word_row(entry: ShelvedGallery, query: ParsedQuery, standing: Standing, k: int) -> str:
    """Return the row, with a button that takes it away."""
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
    took = f"searched in {milliseconds(found.search_ms)}"
    return (
        '<section class="tl-lens plain wide tl-words" aria-label="Words in captions, BM25">'
        f'<header class="tl-lens-head"><h2>Words in captions <small>{explained("BM25", _HELP)}, '
        f"{took}</small></h2>{_switch('', 'Hide', query.text)}</header>{shown}</section>"
    )


def word_offer(query: ParsedQuery) -> str:
    """Return the button that adds the row."""
    return f'<p class="tl-further">{_switch(WORDS, "Add words in captions (BM25)", query.text)}</p>'


def _switch(more: str, label: str, query: str) -> str:
    return (
        f'<button type="button" class="tl-chip" data-more="{more}" '
        f'data-words="{escape(query)}">{escape(label)}</button>'
    )
