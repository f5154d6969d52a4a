"""Pages: through a whole gallery, and through a ranking beyond its first pictures."""

from __future__ import annotations

import gradio as gr

from core.errors import QueryError
from core.search.query_language.parse import ParsedQuery
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import event_value
from core.ui.parts.markup import escape, stage
from core.ui.parts.query.query_chips import above_results
from core.ui.parts.results.cards import plain_row
from core.ui.parts.results.states import (
    answered,
    examples_line,
    one_lens_skeleton,
)
from core.ui.parts.share import View, addressed

PICTURES_A_PAGE = 40
"""Of a gallery that is looked through."""
_NONE_PASSES = '<p class="tl-note">No picture passes the filters.</p>'


def start_of(event: gr.EventData) -> int:
    """Return where the page begins that an event asks for, from 0.

    Raises:
        QueryError: It is no such number.
    """
    return page_start(event_value(event, "start"))


def page_start(given: str) -> int:
    """Return where a page begins, from 0, of a text from a visitor.

    Raises:
        QueryError: It is no such number.
    """
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise QueryError(f"A page begins at a whole number; got {given[:40]!r}.")
    return int(given)


def pager(
    start: int, shown: int, total: int, step: int, words: str = "", deepest: int | None = None
) -> str:
    """Return which pictures are shown, and buttons to the pages before and after; HTML.

    Args:
        start: Pictures before the first one shown.
        shown: Pictures shown.
        total: Pictures in all.
        step: Pictures a page.
        words: The query that ranks them; "" for the gallery's own order.
        deepest: Pictures after which there is no further page; None for all.
    """
    if not start and shown >= total:
        return ""

    def leaf(to: int, text: str, there: bool) -> str:
        off = "" if there else " disabled"
        return (
            f'<button type="button" class="tl-chip" data-start="{to}" '
            f'data-words="{escape(words)}"{off}>{text}</button>'
        )

    last = start + shown
    # A page is longer than a step where pictures that are nearly the same lie in one card.
    before = start - step if start >= 2 * step else 0
    return (
        f'<nav class="tl-pages" aria-label="Pages">'
        f"{leaf(before, '← Previous', start > 0)}"
        f"<span>{start + 1:,} to {last:,} of {total:,}</span>"
        f"{leaf(last, 'Next →', last < min(total, deepest or total))}</nav>"
    )


def browse_state(entry: ShelvedGallery, start: int) -> str:
    """Return a page of a gallery, in its own order."""
    total = len(entry.gallery)
    start = _last_page(start, total)
    ids = entry.gallery.ids[start : start + PICTURES_A_PAGE]
    pages = pager(start, len(ids), total, PICTURES_A_PAGE)
    answer = (
        f'{examples_line(entry)}<section class="tl-lens plain"><header class="tl-lens-head"><h2>'
        f"{escape(entry.name)} <small>all {total:,} pictures</small></h2>{pages}</header>"
        f"{plain_row(entry, ids)}</section>{pages}"
    )
    return stage(answer, one_lens_skeleton(), summary=f"{len(ids)} of {total:,} pictures.")


def filtered_state(entry: ShelvedGallery, query: ParsedQuery, start: int) -> str:
    """Return a page of the pictures that meet a query's filters, in the gallery's order."""
    rows = entry.service.passing(query)
    total = len(rows)
    start = _last_page(start, total)
    ids = [entry.gallery.ids[row] for row in rows[start : start + PICTURES_A_PAGE].tolist()]
    pages = pager(start, len(ids), total, PICTURES_A_PAGE, query.text)
    found = f"{total:,} of {len(entry.gallery):,} pictures"
    answer = (
        f'{examples_line(entry)}{above_results(entry, query)}<section class="tl-lens plain">'
        f'<header class="tl-lens-head"><h2>{escape(entry.name)} <small>{found}</small></h2>{pages}'
        f"</header>{plain_row(entry, ids, query.text) if ids else _NONE_PASSES}</section>{pages}"
    )
    summary = "1 picture passes" if total == 1 else f"{total:,} pictures pass"
    return stage(answer, one_lens_skeleton(), summary=f"{summary} the filters.", query=query.text)


def _last_page(start: int, total: int) -> int:
    """Return where a page begins, that of the last page if it is behind the end."""
    return min(start, max(0, total - 1) // PICTURES_A_PAGE * PICTURES_A_PAGE)


def browse_view(shelf: Shelf, view: View) -> str:
    """Return a page of a gallery with its address, or why there is none."""
    shown = answered(shelf, view.g, lambda: browse_answer(shelf, view.g, page_start(view.start)))
    return addressed(view, shown)


def browse_answer(shelf: Shelf, gallery: str | None, start: int) -> str:
    """Return the page of a gallery that begins somewhere.

    Raises:
        QueryError: There is no such gallery, or no such page.
    """
    return browse_state(shelf.entry(gallery), start)
