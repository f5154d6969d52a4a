"""The Captions and the CLIP tab: one lens, larger pictures, and what a faster index costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import gradio as gr

from core.errors import ModelError
from core.records import Hit, Lens
from core.search.query import picture_count
from core.search.service import FUSION_DEPTH, SearchResult
from core.ui.parts.cards import hit_row, standing_of
from core.ui.parts.events import SEARCH_EVENT, event_value
from core.ui.parts.markup import LENS_WORDS, escape, explained, milliseconds, stage
from core.ui.parts.paging import browse_answer, pager, start_of
from core.ui.parts.picture_query import connect_picture_query, picture_query
from core.ui.parts.search_box import RESULTS_BRIDGE, SearchBox, search_box
from core.ui.parts.share import View, addressed, as_text
from core.ui.parts.shelf import Shelf
from core.ui.parts.similar import similar_answer
from core.ui.parts.states import (
    answered,
    details,
    examples_line,
    fewer_note,
    lens_heading,
    match_note,
    one_lens_skeleton,
    start_state,
    take_along,
    timing,
    top_pictures,
)
from core.ui.uploads.desk import UploadDesk

IVF_HELP = (
    "The IVF index sorts the pictures into clusters beforehand and looks only into the clusters "
    "nearest to your words: faster on large galleries, and it can miss a picture."
)
KEPT_HELP = "How many of the pictures that an exact search shows the IVF index found too."
INDEX_CHOICES = [("flat: compare with all", "flat"), ("IVF: nearest clusters", "ivf")]

WORTH_CLUSTERS = 10
"""With fewer clusters than this a visitor is not asked which index to search."""


@dataclass(frozen=True, slots=True)
class LensTab:
    """The components of the tab that the rest of the page needs."""

    box: SearchBox
    options: gr.Accordion
    index: gr.Radio
    nprobe: gr.Slider
    results: gr.HTML


def lens_tab(
    shelf: Shelf, gallery: gr.Component, lens: Lens, desk: UploadDesk | None = None
) -> LensTab:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery to search.
        lens: Which lens the tab is about.
        desk: Takes pictures to search by, which the CLIP lens can; None leaves that out.
    """
    clusters = cluster_count(shelf, None, lens)
    gr.HTML(
        f'<p class="tl-lede {lens}">{LENS_WORDS[lens].mark}<strong>'
        f"{LENS_WORDS[lens].title}</strong> {escape(LENS_WORDS[lens].how)}</p>",
        apply_default_css=False,
        elem_classes=["tl-bare"],
    )
    box = search_box(lens)
    with (
        gr.Accordion(
            "Details: how the pictures are searched",
            open=False,
            visible=clusters >= WORTH_CLUSTERS,
            elem_classes=["tl-folded"],
        ) as folded,
        gr.Row(elem_classes=["tl-options"]),
    ):
        index = gr.Radio(
            INDEX_CHOICES, value="flat", label="Index", scale=2, elem_id=f"{lens}-index"
        )
        nprobe = gr.Slider(
            1,
            max(2, clusters),
            value=2,
            step=1,
            label="Clusters IVF looks into (nprobe)",
            scale=3,
            buttons=[],
            elem_id=f"{lens}-nprobe",
        )
    ask = picture_query(lens) if desk is not None and lens == "clip" else None
    results = gr.HTML(
        start_state(shelf, None),
        elem_classes=["tl-bare", "tl-results", "tl-large"],
        js_on_load=RESULTS_BRIDGE,
        apply_default_css=False,
    )

    def on_search(query: str, k: object, kind: str, probes: float, gallery_name: str) -> str:
        return search(shelf, lens, query, k, gallery_name, kind, probes)

    def on_page(k: object, kind: str, probes: float, gallery_name: str, event: gr.EventData) -> str:
        query = event_value(event, "query")
        if not query:
            return answered(shelf, gallery_name, lambda: browse_answer(shelf, gallery_name, event))
        return answered(
            shelf,
            gallery_name,
            lambda: answer(
                shelf, lens, query, k, kind, probes, gallery_name, start=start_of(event)
            ),
        )

    def on_pick(
        k: object, kind: str, probes: float, gallery_name: str, event: gr.EventData
    ) -> tuple[str, str]:
        query = event_value(event, "query")
        return query, on_search(query, k, kind, probes, gallery_name)

    def on_similar(k: object, gallery_name: str, event: gr.EventData) -> str:
        return answered(shelf, gallery_name, lambda: similar_answer(shelf, event, k, gallery_name))

    options = [box.k, index, nprobe, gallery]
    gr.on(
        [*box.asked, index.input, nprobe.release],
        on_search,
        [box.query, *options],
        results,
        **SEARCH_EVENT,
    )
    results.pick(on_pick, options, [box.query, results], **SEARCH_EVENT)
    results.similar(on_similar, [box.k, gallery], results, **SEARCH_EVENT)
    results.turn(on_page, options, results, **SEARCH_EVENT)
    if ask is not None and desk is not None:
        connect_picture_query(ask, desk, shelf, box.k, gallery, results)
    return LensTab(box, folded, index, nprobe, results)


def cluster_count(shelf: Shelf, gallery_name: str | None, lens: Lens) -> int:
    """Return the number of clusters of a gallery's IVF index; 1 where there is no gallery."""
    if not shelf.entries:
        return 1
    return shelf.entry(gallery_name).gallery.index(lens, "ivf").nlist or 1


def search(
    shelf: Shelf,
    lens: Lens,
    query: str,
    k: object,
    gallery_name: str,
    kind: str = "flat",
    probes: float = 2,
) -> str:
    """Return the results area for a query, or a state that says why there are no results."""
    found = answered(
        shelf, gallery_name, lambda: answer(shelf, lens, query, k, kind, probes, gallery_name)
    )
    view = View(lens, query or "", gallery_name or "", as_text(k), kind, as_text(probes))
    return addressed(view, found)


def answer(
    shelf: Shelf,
    lens: Lens,
    query: str,
    k: object,
    kind: str,
    probes: float,
    gallery_name: str,
    *,
    start: int = 0,
) -> str:
    """Return the results area for a query; the start state for an empty one.

    Args:
        shelf: The galleries.
        lens: Which lens answers.
        query: The words.
        k: Pictures a page.
        kind: Of index.
        probes: Clusters that an IVF search looks into.
        gallery_name: Which gallery is searched.
        start: Pictures before the page.

    Raises:
        QueryError: The query, k, index or nprobe cannot be answered.
        ModelError: The lens's encoder cannot be loaded.
    """
    if not shelf.entries or not (query or "").strip():
        return start_state(shelf, gallery_name)
    entry, asked = shelf.entry(gallery_name), picture_count(k)
    clusters = cluster_count(shelf, gallery_name, lens)
    total = len(entry.gallery)
    start = min(start, max(0, total - 1))
    deep = max(FUSION_DEPTH - start, asked)
    exact = entry.service.by_text(query, deep, lens, start=start)
    ranking: SearchResult = exact
    line = ""
    if kind != "flat" and clusters >= WORTH_CLUSTERS:
        nprobe = min(int(probes or 1), clusters)
        ranking = entry.service.by_text(
            query,
            deep,
            lens,
            kind,  # type: ignore[arg-type]  # the service refuses what is not a kind
            nprobe,
            start,
        )
        line = _index_line(exact, ranking, asked, f"{nprobe} of {clusters}")
    other: Lens = "clip" if lens == "captions" else "captions"
    rankings: dict[Lens, Sequence[Hit]] = {lens: exact.hits}
    with suppress(ModelError):  # then its rank is not shown
        rankings[other] = entry.service.by_text(query, FUSION_DEPTH, other).hits
    standing = standing_of(query.strip(), rankings)
    hits = ranking.hits[:asked]
    pages = pager(start, len(hits), total, asked, query.strip())
    note = match_note(entry, exact) if start == 0 else ""
    body = (
        f"{examples_line(entry, query.strip())}{line}"
        f'<section class="tl-lens {lens} wide" aria-label="{LENS_WORDS[lens].title}">'
        f"{lens_heading(lens, note=note)}"
        f"{hit_row(entry, hits, standing, lens=lens)}</section>{pages}"
        f"{'' if start else fewer_note(len(hits), asked)}"
        f"{take_along()}{details([timing(ranking)])}"
    )
    summary = top_pictures(entry, [hit.id for hit in hits], LENS_WORDS[lens].title)
    return stage(body, one_lens_skeleton(), summary=summary, query=entry.service.normalise(query))


def _index_line(exact: SearchResult, ivf: SearchResult, asked: int, searched: str) -> str:
    exact_ids = {hit.id for hit in exact.hits[:asked]}
    kept = len(exact_ids & {hit.id for hit in ivf.hits[:asked]})
    flat_took, took = milliseconds(exact.search_ms), milliseconds(ivf.search_ms)
    return (
        f'<p class="tl-agree">{explained(f"IVF {took}", IVF_HELP)}<span>flat {flat_took}</span>'
        f"<span>searched {searched} clusters</span>"
        f"{explained(f'IVF kept {kept} of {len(exact_ids)}', KEPT_HELP)}</p>"
    )
