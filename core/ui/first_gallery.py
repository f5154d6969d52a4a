"""The page before its first gallery is built: it waits, and turns into the gallery by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio as gr
from gradio.blocks import Block

from core.ui.galleries.shelf import Shelf
from core.ui.parts.events import PAGE_EVENT
from core.ui.parts.results.states import answered, opening_state, start_state
from core.ui.tabs.compare import CompareTab, answer

_LOOK_S = 1.0
"""Between two looks at how far the first gallery is."""


def is_awaited(shelf: Shelf) -> bool:
    """Tell whether the page has to wait for its first gallery."""
    return shelf.awaited is not None and not shelf.entries


def turn_into_first_gallery(
    shelf: Shelf,
    compare: CompareTab,
    other_results: Sequence[gr.HTML],
    parts: Sequence[Block],
    parts_of: Callable[[str | None], list[object]],
) -> gr.Timer:
    """Turn the page into the first gallery once that is built.

    Args:
        shelf: The galleries.
        compare: The tab that answers.
        other_results: What shows the gallery in the other tabs.
        parts: What else depends on the gallery.
        parts_of: Returns the values of ``parts`` for the name of a gallery, None for the first.

    Returns:
        What looks for the gallery, active while there is none.
    """

    def on_tick(query: str, k: object) -> list[object]:
        start = start_state(shelf, None)
        others = [start] * len(other_results)
        if not shelf.entries:
            return [start, *others, *[gr.skip()] * len(parts), gr.skip()]
        typed = (query or "").strip()
        first = (
            answered(shelf, None, lambda: answer(shelf, typed, k, ""))
            if typed
            else opening_state(shelf)
        )
        return [first, *others, *parts_of(None), gr.Timer(active=False)]

    waiting = gr.Timer(_LOOK_S, active=is_awaited(shelf))
    waiting.tick(
        on_tick,
        [compare.box.query, compare.box.k],
        [compare.results, *other_results, *parts, waiting],
        **PAGE_EVENT,
    )
    return waiting
