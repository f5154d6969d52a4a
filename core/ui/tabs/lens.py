"""The Captions and the CLIP tab: one lens, larger pictures, and what a faster index costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import gradio as gr

from core.errors import ModelError, TwoLensError
from core.records import INDEX_PAIR, LENSES, Hit, IndexKind, Lens
from core.search.query import MAX_K, picture_count
from core.search.results import FUSION_DEPTH, SearchResult
from core.ui.galleries.shelf import Shelf
from core.ui.parts.events import SEARCH_EVENT, event_value
from core.ui.parts.markup import LENS_WORDS, escape, explained, milliseconds, stage
from core.ui.parts.query.picture_query import connect_picture_query, picture_query
from core.ui.parts.query.query_chips import above_results
from core.ui.parts.query.search_box import RESULTS_BRIDGE, SearchBox, search_box
from core.ui.parts.results.cards import fill_row, hit_row, standing_of
from core.ui.parts.results.paging import browse_view, filtered_state, page_start, pager
from core.ui.parts.results.similar import asked_similar, similar_view
from core.ui.parts.results.states import (
    answered,
    details,
    examples_line,
    fewer_note,
    lens_heading,
    match_note,
    one_lens_skeleton,
    start_state,
    timing,
    toolbar,
    top_pictures,
)
from core.ui.parts.share import View, addressed, as_text
from core.ui.uploads.desk import UploadDesk

IVF_HELP = (
    "The IVF index sorts the pictures into clusters beforehand and looks only into the clusters "
    "nearest to your words: faster on large galleries, and it can miss a picture."
)
KEPT_HELP = "How many of the pictures that an exact search shows the IVF index found too."
INDEX_LABELS: dict[IndexKind, str] = {
    "flat": "flat: compare with all",
    "ivf": "IVF: nearest clusters",
    "ivfsq8": "IVF, 8-bit codes: nearest clusters",
    "ivfpq": "IVF, product codes: nearest clusters",
    "hnsw": "HNSW: along a graph",
    "milvus": "Milvus: a vector database",
}

WORTH_CLUSTERS = 10
"""With fewer clusters than this a visitor is not asked which index to search."""

_FEW_CLUSTERS = 2


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
    offered = index_offer(shelf, None, lens)
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
            visible=offered.clusters >= WORTH_CLUSTERS,
            elem_classes=["tl-folded"],
        ) as folded,
        gr.Row(elem_classes=["tl-options"]),
    ):
        index = gr.Radio(
            offered.choices,
            value=offered.kinds[0],
            label="Index",
            scale=2,
            elem_id=f"{lens}-index",
        )
        nprobe = gr.Slider(
            1,
            max(2, offered.clusters),
            value=offered.nprobe,
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
        query, start = event_value(event, "query"), event_value(event, "start", 20)
        if not query:
            return browse_view(shelf, View(lens, "", gallery_name or "", start=start))
        return search(shelf, lens, query, k, gallery_name, kind, probes, start)

    def on_pick(
        k: object, kind: str, probes: float, gallery_name: str, event: gr.EventData
    ) -> tuple[str, str]:
        query = event_value(event, "query")
        return query, on_search(query, k, kind, probes, gallery_name)

    def on_similar(k: object, gallery_name: str, event: gr.EventData) -> str:
        query, name = event_value(event, "query"), gallery_name or ""
        return similar_view(shelf, View(lens, query, name, as_text(k), s=asked_similar(event)))

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


@dataclass(frozen=True, slots=True)
class IndexOffer:
    """Which indexes of a gallery a visitor may choose from.

    Attributes:
        kinds: The best first.
        clusters: Of the one that has clusters; 1 if none has.
        nprobe: Clusters to look into at first: few where IVF stands beside an exact index, to be
            compared with it, and what the build found to be enough where it stands alone.
    """

    kinds: tuple[IndexKind, ...] = INDEX_PAIR
    clusters: int = 1
    nprobe: int = _FEW_CLUSTERS

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Labels and values."""
        return [(INDEX_LABELS[kind], kind) for kind in self.kinds]

    def kind(self, asked: str) -> IndexKind:
        """Return what is asked for if it is offered, else the best: an address may be old."""
        return next((kind for kind in self.kinds if kind == asked), self.kinds[0])


def index_offer(shelf: Shelf, gallery_name: str | None, lens: Lens) -> IndexOffer:
    """Return what a gallery offers; the pair without clusters where there is no gallery."""
    try:
        gallery = shelf.entry(gallery_name).gallery
        kinds = gallery.index_kinds
        last = gallery.index(lens, kinds[-1])
    except TwoLensError:
        return IndexOffer()  # what is wrong stands in the results
    enough = _FEW_CLUSTERS if "flat" in kinds else last.default_nprobe
    return IndexOffer(kinds, last.nlist or 1, enough or _FEW_CLUSTERS)


def offered_options(shelf: Shelf, gallery_name: str | None) -> list[object]:
    """Return the folds, kinds of index and nprobes of all lenses for a gallery."""
    options: list[object] = []
    for lens in LENSES:
        offer = index_offer(shelf, gallery_name, lens)
        options += [
            gr.Accordion(visible=offer.clusters >= WORTH_CLUSTERS),
            gr.Radio(choices=offer.choices, value=offer.kinds[0]),
            gr.Slider(value=offer.nprobe, maximum=max(2, offer.clusters)),
        ]
    return options


def search(
    shelf: Shelf,
    lens: Lens,
    query: str,
    k: object,
    gallery_name: str,
    kind: str = "flat",
    probes: float = 0,
    start: str = "",
) -> str:
    """Return the results area for a query, or a state that says why there are no results."""

    def found() -> str:
        first = page_start(start or "0")
        return answer(shelf, lens, query, k, kind, probes, gallery_name, start=first)

    name, clusters = gallery_name or "", as_text(probes or "")
    page = start if start.strip("0") else ""
    view = View(lens, query or "", name, as_text(k), kind, clusters, start=page)
    return addressed(view, answered(shelf, gallery_name, found))


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
        kind: Of index; the gallery's best if it has none of that kind.
        probes: Clusters that an IVF search looks into; 0 for as many as the slider starts with.
        gallery_name: Which gallery is searched.
        start: Pictures before the page.

    Raises:
        QueryError: The query, k, index or nprobe cannot be answered.
        ModelError: The lens's encoder cannot be loaded.
    """
    if not shelf.entries or not (query or "").strip():
        return start_state(shelf, gallery_name)
    entry, asked = shelf.entry(gallery_name), picture_count(k)
    offered = index_offer(shelf, gallery_name, lens)
    parsed = entry.service.parse(query)
    if not parsed.parts:
        return filtered_state(entry, parsed, start)
    start = min(start, max(0, len(entry.gallery) - 1))
    # More than are shown: their ranks, and others in the place of those that are nearly the same.
    deep = max(FUSION_DEPTH - start, min(2 * asked, MAX_K))
    line, clusters = "", offered.clusters
    if offered.kind(kind) != "flat" and clusters >= WORTH_CLUSTERS:
        nprobe = min(int(probes or offered.nprobe), clusters)
        chosen = offered.kind(kind)
        ranking = entry.service.by_text(query, deep, lens, chosen, nprobe, start)
        exact = ranking
        if "flat" in offered.kinds:
            exact = entry.service.by_text(query, deep, lens, "flat", start=start)
        line = _index_line(exact, ranking, asked, f"{nprobe:,} of {clusters:,}")
    else:
        ranking = exact = entry.service.by_text(query, deep, lens, start=start)
    if exact.left == 0:
        return filtered_state(entry, parsed, 0)
    total = len(entry.gallery) if exact.left is None else exact.left
    other: Lens = "clip" if lens == "captions" else "captions"
    rankings: dict[Lens, Sequence[Hit]] = {lens: exact.hits}
    with suppress(ModelError):  # then its rank is not shown
        rankings[other] = entry.service.by_text(query, FUSION_DEPTH, other).hits
    standing = standing_of(query.strip(), rankings, exact.left)
    hits = fill_row(entry, ranking.hits, asked)
    pages = pager(start, len(hits), total, asked, query.strip())
    note = match_note(entry, exact, query) if start == 0 else ""
    body = (
        f"{examples_line(entry, query.strip())}{above_results(entry, parsed)}{line}"
        f'<section class="tl-lens {lens} wide" aria-label="{LENS_WORDS[lens].title}">'
        f"{lens_heading(lens, note=note)}"
        f"{hit_row(entry, hits, standing, lens=lens)}</section>"
        f"{'' if start else fewer_note(len(hits), asked, exact.left)}"
        f"{toolbar(pages)}{details([timing(ranking)])}"
    )
    summary = top_pictures(entry, [hit.id for hit in hits], LENS_WORDS[lens].title)
    return stage(body, one_lens_skeleton(), summary=summary, query=entry.service.normalise(query))


def _index_line(exact: SearchResult, ivf: SearchResult, asked: int, searched: str) -> str:
    looked = f"<span>searched {searched} clusters</span>"
    took = explained(f"IVF {milliseconds(ivf.search_ms)}", IVF_HELP)
    if exact is ivf:
        return f'<p class="tl-agree">{took}{looked}</p>'
    exact_ids = {hit.id for hit in exact.hits[:asked]}
    kept = len(exact_ids & {hit.id for hit in ivf.hits[:asked]})
    return (
        f'<p class="tl-agree">{took}<span>flat {milliseconds(exact.search_ms)}</span>{looked}'
        f"{explained(f'IVF kept {kept} of {len(exact_ids)}', KEPT_HELP)}</p>"
    )
