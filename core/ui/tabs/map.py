"""The tab "Map": both lenses' spaces in two dimensions, with the query and its hits in both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import gradio as gr

from core.map.query_point import NEAREST, place_among
from core.map.stored import GalleryMap, read_map
from core.records import LENSES, Hit, Lens
from core.search.query import picture_count
from core.search.results import Comparison
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import SEARCH_EVENT, event_value
from core.ui.parts.markup import LENS_WORDS, escape, explained, stage
from core.ui.parts.query.query_chips import query_chips
from core.ui.parts.query.search_box import RESULTS_BRIDGE, SearchBox, search_box
from core.ui.parts.results.cards import plain_row
from core.ui.parts.results.similar import similar_answer
from core.ui.parts.results.states import (
    answered,
    examples_line,
    no_gallery_state,
    toolbar,
    top_pictures,
)
from core.ui.parts.share import View, addressed, as_text
from core.ui.tabs.map_routes import map_file_address, points_address

MOST_LISTED = 100
"""Pictures of a selection that are listed; the page sends no more."""
_ID = re.compile(r"[0-9a-f]{16}")
_NO_MAP = (
    "This gallery has no map, because it was built before there were maps or is too large for one: "
    "run <code>python -m precompute map GALLERY</code> on its folder, then start the app again."
)


@dataclass(frozen=True, slots=True)
class MapTab:
    """The components of the tab that the rest of the page needs."""

    box: SearchBox
    results: gr.HTML
    chosen: gr.HTML


def map_tab(shelf: Shelf, gallery: gr.Component) -> MapTab:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery.
    """
    box = search_box("map", k_label="Pictures per lens")
    view, chosen = (
        gr.HTML(
            value,
            elem_classes=["tl-bare", "tl-results"],
            js_on_load=RESULTS_BRIDGE + script,
            apply_default_css=False,
        )
        for value, script in ((start(), _loader()), ("", ""))
    )

    def on_search(query: str, k: object, name: str) -> str:
        return search(shelf, query, k, name)

    def on_pick(k: object, name: str, event: gr.EventData) -> tuple[str, str]:
        query = event_value(event, "query")
        return query, search(shelf, query, k, name)

    def on_lasso(name: str, event: gr.EventData) -> str:
        if not event_value(event, "count"):
            return ""  # it was cleared
        return answered(shelf, name, lambda: selection(shelf.entry(name), event))

    def on_similar(k: object, name: str, event: gr.EventData) -> str:
        return answered(shelf, name, lambda: similar_answer(shelf, event, k, name))

    gr.on(box.asked, on_search, [box.query, box.k, gallery], view, **SEARCH_EVENT)
    for event in (view.pick, chosen.pick):
        event(on_pick, [box.k, gallery], [box.query, view], **SEARCH_EVENT)
    view.lasso(on_lasso, gallery, chosen, **SEARCH_EVENT)
    for event in (view.similar, chosen.similar):
        event(on_similar, [box.k, gallery], chosen, **SEARCH_EVENT)
    return MapTab(box, view, chosen)


def _loader() -> str:
    """Return what fetches the tab's script and style when the tab is first opened."""
    script, style = map_file_address("js"), map_file_address("css")
    return (
        "/* sends 'lasso' too */ if (!window.twolensMapAsked) { window.twolensMapAsked = true;"
        f"document.head.append(Object.assign(document.createElement('link'), "
        f"{{rel: 'stylesheet', href: '{style}'}}), "
        f"Object.assign(document.createElement('script'), {{src: '{script}'}})); }}"
    )


def start() -> str:
    """Return what stands in the tab until its script asks for the gallery's map."""
    coming = '<p class="tl-note">The map is coming.</p>'
    return stage(f'<div class="tl-map" data-begin>{coming}</div>', "")


def search(shelf: Shelf, query: str, k: object, gallery_name: str) -> str:
    """Return the maps with a query in them, or a state that says why there are none."""
    found = answered(shelf, gallery_name, lambda: answer(shelf, query, k, gallery_name))
    return addressed(View("map", query or "", gallery_name or "", as_text(k)), found)


def answer(shelf: Shelf, query: str, k: object, gallery_name: str) -> str:
    """Return the maps; with the query and its hits, unless it is empty, and what its filters leave.

    Raises:
        QueryError: The query or k cannot be answered.
        GalleryError: The map cannot be read.
    """
    if not shelf.entries:
        return no_gallery_state()
    entry = shelf.entry(gallery_name)
    found = read_map(entry.gallery)
    if found is None:
        return stage(f'<div class="tl-notice"><p>{_NO_MAP}</p></div>', "")
    typed = (query or "").strip()
    told: dict[str, object] = {
        "slug": entry.slug,
        "points": points_address(entry),
        "thumbnail": entry.thumbnail_url("ID"),
        "count": len(entry.gallery),
        "query": "",
        "hits": {},
        "places": {},
        "passing": None,
    }
    summary = parts = ""
    if typed:
        asked = entry.service.parse(typed)
        typed, parts = asked.text, query_chips(entry, asked)
        if asked.filters:
            rows = entry.service.passing(asked).tolist()
            told["passing"] = rows
            summary = f"{len(rows):,} of {len(entry.gallery):,} pictures pass the filters."
            parts += f"<span>{summary}</span>"
        if asked.parts:
            comparison = entry.service.compare(typed, k=picture_count(k))
            told |= drawn(entry, found, comparison)
            ids = [hit.id for hit in comparison.fused]
            summary = top_pictures(entry, ids, "Best of both")
    parts = f'<div class="tl-asked">{parts}</div>' if parts else ""
    content = (
        f"{examples_line(entry, typed)}{parts}"
        f'<div class="tl-map" data-map="{escape(json.dumps(told, ensure_ascii=False))}"></div>'
        f'<p class="tl-note">Pictures that a lens finds alike lie near each other; distances '
        f"between far groups mean little. Your words (◆) stand at the mean place of their "
        f"{NEAREST} nearest pictures in that lens, the better scores counting more; circles number "
        f"the hits of the caption lens, squares those of the CLIP lens. "
        f"{explained('How it is made', f'{found.method}.')}</p>"
    )
    return stage(content, "", summary=summary, query=typed)


def drawn(entry: ShelvedGallery, found: GalleryMap, comparison: Comparison) -> dict[str, object]:
    """Return what the page draws of a search: rows of each lens's hits, and the query's places."""
    hits: dict[str, list[int]] = {}
    places: dict[str, list[float]] = {}
    for lens in LENSES:
        result = comparison.captions if lens == "captions" else comparison.clip
        if result is None or not result.hits:
            continue
        hits[lens] = _rows(entry, result.hits)
        deep = comparison.rankings[lens][: NEAREST + 1]
        place = place_among(
            found.coordinates[lens], _rows(entry, deep), [hit.score for hit in deep]
        )
        places[lens] = [round(float(value), 4) for value in place]
    return {"query": comparison.query, "hits": hits, "places": places}


def _rows(entry: ShelvedGallery, hits: tuple[Hit, ...]) -> list[int]:
    return [entry.gallery.row(hit.id) for hit in hits]


def selection(entry: ShelvedGallery, event: gr.EventData) -> str:
    """Return the cards of pictures that a visitor took out of a map.

    Args:
        entry: The gallery.
        event: Of the page: ``ids``, separated by spaces, ``count`` and the ``lens`` of the map.
    """
    sent = event_value(event, "ids").split()
    ids = [each for each in dict.fromkeys(sent) if _ID.fullmatch(each) and each in entry.gallery]
    ids = ids[:MOST_LISTED]
    count = event_value(event, "count", 9)
    total = max(int(count) if count.isdecimal() else 0, len(ids))
    if not ids:
        return stage('<p class="tl-note">No picture lies there.</p>', "", summary="No picture.")
    lens: Lens = "clip" if event_value(event, "lens") == "clip" else "captions"
    pictures = "1 picture" if total == 1 else f"{total:,} pictures"
    listed = f"{pictures}" if total == len(ids) else f"{len(ids)} of {pictures}, the middle first"
    content = (
        f'<section class="tl-lens plain"><header class="tl-lens-head"><h2>Selected <small>{listed} '
        f"on the map of the {LENS_WORDS[lens].title}</small></h2>"
        '<button type="button" class="tl-chip" data-map-clear>Clear the selection</button></header>'
        f"{plain_row(entry, ids)}</section>{toolbar()}"
    )
    return stage(content, "", summary=f"{pictures} selected.")
