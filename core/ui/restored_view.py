"""Showing a view again that its address names, with its tab, its gallery and its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import gradio as gr

from core.records import LENSES, IndexKind, Lens
from core.ui.galleries.shelf import Shelf
from core.ui.parts.results.paging import browse_view
from core.ui.parts.results.similar import similar_view
from core.ui.parts.results.states import answered, start_state
from core.ui.parts.share import View
from core.ui.tabs.compare import CompareTab, search
from core.ui.tabs.lens import IndexOffer, LensTab, index_offer
from core.ui.tabs.lens import search as lens_search
from core.ui.tabs.map import MapTab
from core.ui.tabs.map import search as map_search
from core.ui.tabs.map import start as map_start

_TABS = ("compare", *LENSES, "map")
"""Those whose view has an address."""
_SETTINGS_A_LENS = 3
"""Of a lens's tab: the fold, the kind of index, nprobe."""


def restored_parts(
    compare: CompareTab, lens_tabs: Sequence[LensTab], maps: MapTab
) -> list[gr.Component]:
    """Return what :func:`restoring` answers for, after the gallery and the tabs."""
    tabs: tuple[CompareTab | LensTab | MapTab, ...] = (compare, *lens_tabs, maps)
    boxes = [part for tab in tabs for part in (tab.box.query, tab.box.k)]
    return [*boxes, *(tab.results for tab in tabs)]


def restoring(
    shelf: Shelf, of_gallery: Callable[[str | None], list[object]]
) -> Callable[[gr.EventData], list[object]]:
    """Return the handler of ``restore``.

    Args:
        shelf: The galleries.
        of_gallery: Settings of both lens tabs for a gallery, and its description.
    """

    def on_restore(event: gr.EventData) -> list[object]:
        """Show the view that an address names; what is wrong with it stands in the results."""
        view = View.of(event)
        name = view.g or (shelf.names[0] if shelf.entries else "")
        known = name in shelf.names
        start = answered(shelf, name, lambda: start_state(shelf, name if known else None))
        tab = view.tab if view.tab in _TABS else "compare"
        boxes: list[object] = []
        results: list[object] = []
        for other in _TABS:
            k = view.pictures if isinstance(view.pictures, float) else gr.skip()
            boxes += [view.q, k] if other == tab else ["", gr.skip()]
            empty = map_start() if other == "map" else start
            results.append(_found(shelf, view, other) if other == tab else empty)
        settings = of_gallery(name if known else None)
        if tab in LENSES:
            place = _SETTINGS_A_LENS * LENSES.index(cast("Lens", tab))
            offer = index_offer(shelf, name if known else None, cast("Lens", tab))
            kind, clusters = index_settings(view, offer)
            radio = gr.Radio(choices=offer.choices, value=kind)
            settings[place + 1 : place + 3] = [radio, gr.Slider(value=clusters)]
        chosen = name if known else gr.skip()
        shown = [*boxes, *results, *settings]
        return [chosen, gr.Tabs(selected=tab), *shown, view.more[:20]]

    return on_restore


def index_settings(view: View, offer: IndexOffer) -> tuple[IndexKind, int]:
    """Return the kind of index and nprobe of a view; what a gallery offers where they are none."""
    return offer.kind(view.index), view.clusters or offer.nprobe


def _found(shelf: Shelf, view: View, tab: str) -> str:
    if view.s and tab != "map":  # the map shows these beside itself
        return similar_view(shelf, view)
    if view.start and not view.q.strip() and tab != "map":
        return browse_view(shelf, view)
    if tab == "compare":
        return search(shelf, view.q, view.pictures, view.g, view.start, more=view.more)
    if tab == "map":
        return map_search(shelf, view.q, view.pictures, view.g)
    lens, kind = cast("Lens", tab), view.index
    return lens_search(shelf, lens, view.q, view.pictures, view.g, kind, view.clusters, view.start)
