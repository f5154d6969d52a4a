"""What the page does by itself: it answers an example, and waits for a gallery that is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio as gr
from gradio.blocks import Block

from core.ui.parts.events import PAGE_EVENT
from core.ui.parts.shelf import Shelf
from core.ui.parts.states import answered, opening_query, start_state
from core.ui.tabs.compare import CompareTab, answer

_LOOK_S = 1.0
"""Between two looks at how far the first gallery is."""


def is_awaited(shelf: Shelf) -> bool:
    """Tell whether the page has to wait for its first gallery."""
    return shelf.awaited is not None and not shelf.entries


def add_opening(
    page: gr.Blocks,
    shelf: Shelf,
    compare: CompareTab,
    other_results: Sequence[gr.HTML],
    parts: Sequence[Block],
    parts_of: Callable[[str | None], list[object]],
) -> gr.Timer:
    """Answer an example when the page opens, and turn it into the first gallery once that is built.

    Args:
        page: The page that is being built.
        shelf: The galleries.
        compare: The tab that answers.
        other_results: What shows the gallery in the other tabs.
        parts: What else depends on the gallery.
        parts_of: Returns the values of ``parts`` for the name of a gallery, None for the first.

    Returns:
        What looks for the gallery, active while there is none.
    """

    def on_open(query: str, k: object) -> tuple[object, object]:
        # What was typed while the gallery was on its way, or else the example.
        asked = (query or "").strip() or opening_query(shelf)
        if asked is None:
            return gr.skip(), gr.skip()
        return asked, answered(shelf, None, lambda: answer(shelf, asked, k, ""))

    def on_tick(query: str, k: object) -> list[object]:
        start = start_state(shelf, None)
        others = [start] * len(other_results)
        if not shelf.entries:
            return [gr.skip(), start, *others, *[gr.skip()] * len(parts), gr.skip()]
        asked, first = on_open(query, k) if opening_query(shelf) else (gr.skip(), start)
        return [asked, first, *others, *parts_of(None), gr.Timer(active=False)]

    query, k, results = compare.box.query, compare.box.k, compare.results
    waiting = gr.Timer(_LOOK_S, active=is_awaited(shelf))
    page.load(on_open, [query, k], [query, results], **PAGE_EVENT)
    waiting.tick(
        on_tick, [query, k], [query, results, *other_results, *parts, waiting], **PAGE_EVENT
    )
    return waiting
