"""What a query says beyond plain words, as chips above its results; each can be taken out.

A chip carries the query that it leads to, so that the address, Back and the API know all of it.
"""

from __future__ import annotations

from core.errors import QueryError
from core.search.query_language.filters import Filter
from core.search.query_language.foreign import reading_note
from core.search.query_language.negation import without_in_words
from core.search.query_language.parse import ParsedQuery, Part, parse_query
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.parts.markup import escape
from core.ui.parts.query.filter_panel import filter_panel
from core.ui.parts.results.cards import alt_text

_ALL = 'data-start="0" data-words=""'
"""Of a button that leads to the whole gallery."""


def above_results(entry: ShelvedGallery, query: ParsedQuery) -> str:
    """Return what stands above the answer to a query: its chips, and the folded filters."""
    said = reading_note(query.words)
    note = f'<p class="tl-note">{said}</p>' if said else ""
    return (
        f'<div class="tl-asked">{query_chips(entry, query)}{filter_panel(entry, query)}</div>{note}'
    )


def query_chips(entry: ShelvedGallery, query: ParsedQuery) -> str:
    """Return the chips of a query, or an offer for words that negate; "" for plain words."""
    if query.is_plain and not query.filters:
        return _negation(query.parts[0].text)
    positive = [part for part in query.parts if part.weight > 0]
    chips = [_part(entry, query, part, positive != [part]) for part in query.parts]
    chips += [_filter(query, each) for each in query.filters]
    return (
        '<div class="tl-parts" role="group" aria-label="Parts of the query">'
        f"<span>Searched for</span>{''.join(chips)}</div>"
    )


def _part(entry: ShelvedGallery, query: ParsedQuery, part: Part, removable: bool) -> str:
    name = escape(part.label)
    shown = f"<span>{name}</span>"
    if part.picture:
        record = entry.gallery.record(part.picture)
        likeness = "less like" if part.weight < 0 else "more like"
        times = part.label.strip("−")
        shown = (
            f'{likeness} <img src="{escape(entry.thumbnail_url(record.id))}" '
            f'alt="{escape(alt_text(record))}" width="32" height="32">{times}'
        )
        name = f"{likeness} {escape(alt_text(record))}"
    kind = "less" if part.weight < 0 else "more"
    return _chip(shown, name, query.without(part) if removable else "", kind)


def _filter(query: ParsedQuery, each: Filter) -> str:
    label = escape(each.label)
    return _chip(f"<span>{label}</span>", label, query.without(each), "filter", _ALL)


def _chip(shown: str, name: str, without: str, kind: str, otherwise: str = "") -> str:
    """Return one chip: a button that leads to the query without it, or elsewhere if that is none.

    Args:
        shown: HTML.
        name: What it is called, escaped.
        without: The query without it; "" if there is none.
        kind: ``more``, ``less`` or ``filter``.
        otherwise: Attributes of a button that leads elsewhere; "" for no button then.
    """
    leads = f'data-query="{escape(without)}"' if without else otherwise
    if not leads:
        return f'<span class="tl-part {kind}">{shown}</span>'
    return (
        f'<button type="button" class="tl-part {kind}" {leads} '
        f'aria-label="Remove {name}">{shown}<span aria-hidden="true">×</span></button>'
    )


def _negation(words: str) -> str:
    offered = without_in_words(words)
    try:
        if offered is None or parse_query(offered).filters:
            return ""
    except QueryError:  # what is negated looks like syntax
        return ""
    return (
        '<div class="tl-parts"><button type="button" class="tl-chip" '
        f'data-query="{escape(offered)}">Search for: {escape(_as_read(offered))}</button></div>'
    )


def _as_read(query: str) -> str:
    """Return a composed query with a minus sign and without quotes."""
    return query.replace('-"', "−").replace(" -", " −").replace('"', "")
