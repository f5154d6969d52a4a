"""The Captions and the CLIP tab: one lens, larger pictures, and what a faster index costs."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from core.records import LENSES, Lens
from core.search.service import IndexComparison
from core.ui.parts.cards import hit_row
from core.ui.parts.events import SEARCH_EVENT, event_value
from core.ui.parts.markup import LENS_WORDS, escape, explained, milliseconds, stage
from core.ui.parts.picture_query import connect_picture_query, picture_query
from core.ui.parts.search_box import RESULTS_BRIDGE, SearchBox, picture_count, search_box
from core.ui.parts.shelf import Shelf, ShelvedGallery
from core.ui.parts.similar import similar_answer
from core.ui.parts.standing import standing_of
from core.ui.parts.states import (
    answered,
    examples_line,
    fewer_note,
    lens_heading,
    one_lens_skeleton,
    start_state,
    top_pictures,
    weak_note,
)
from core.ui.uploads.desk import UploadDesk

FLAT_HELP = "The flat index compares your words with every picture: exact."
IVF_HELP = (
    "The IVF index sorts the pictures into clusters beforehand and looks only into the clusters "
    "nearest to your words: faster on large galleries, and it can miss a picture."
)
KEPT_HELP = "How many of the pictures of the exact ranking the IVF ranking holds too."
INDEX_CHOICES = [("flat: compare with all", "flat"), ("IVF: nearest clusters", "ivf")]


@dataclass(frozen=True, slots=True)
class LensTab:
    """The components of the tab that the rest of the page needs."""

    box: SearchBox
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
    with gr.Row(elem_classes=["tl-options"]):
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
        return answered(
            shelf, gallery_name, lambda: answer(shelf, lens, query, k, kind, probes, gallery_name)
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
        [box.query.submit, box.button.click, index.input, nprobe.release],
        on_search,
        [box.query, *options],
        results,
        **SEARCH_EVENT,
    )
    results.pick(on_pick, options, [box.query, results], **SEARCH_EVENT)
    results.similar(on_similar, [box.k, gallery], results, **SEARCH_EVENT)
    if ask is not None and desk is not None:
        connect_picture_query(ask, desk, shelf, box.k, gallery, results)
    return LensTab(box, nprobe, results)


def cluster_count(shelf: Shelf, gallery_name: str | None, lens: Lens) -> int:
    """Return the number of clusters of a gallery's IVF index; 1 where there is no gallery."""
    if not shelf.entries:
        return 1
    return shelf.entry(gallery_name).gallery.index(lens, "ivf").nlist or 1


def answer(
    shelf: Shelf, lens: Lens, query: str, k: object, kind: str, probes: float, gallery_name: str
) -> str:
    """Return the results area for a query; the start state for an empty one.

    Raises:
        QueryError: The query, k, index or nprobe cannot be answered.
        ModelError: The lens's encoder cannot be loaded.
    """
    if not shelf.entries or not (query or "").strip():
        return start_state(shelf, gallery_name)
    entry = shelf.entry(gallery_name)
    asked = picture_count(k)
    nprobe = min(int(probes or 1), cluster_count(shelf, gallery_name, lens))
    found = entry.service.compare_indexes(query, lens, k=asked, nprobe=nprobe)
    shown = found.ivf if kind == "ivf" else found.flat
    standing = standing_of(entry, query.strip(), LENSES)
    heading = lens_heading(lens, shown)
    body = (
        f"{examples_line(entry, query.strip())}{_index_line(entry, found, nprobe, lens)}"
        f'<section class="tl-lens {lens} wide" aria-label="{LENS_WORDS[lens].title}">{heading}'
        f"{hit_row(entry, shown.hits, standing, lens=lens)}</section>"
        f"{weak_note(shown) if lens == 'captions' else ''}{fewer_note(len(shown.hits), asked)}"
    )
    summary = top_pictures(entry, [hit.id for hit in shown.hits], LENS_WORDS[lens].title)
    return stage(body, one_lens_skeleton(), summary=summary)


def _index_line(entry: ShelvedGallery, found: IndexComparison, nprobe: int, lens: Lens) -> str:
    clusters = entry.gallery.index(lens, "ivf").nlist or 1
    flat, ivf = milliseconds(found.flat.search_ms), milliseconds(found.ivf.search_ms)
    looked = f"looked into {nprobe} of {clusters} cluster{'' if clusters == 1 else 's'}"
    return (
        f'<p class="tl-agree">{explained(f"flat {flat}", FLAT_HELP)}'
        f"{explained(f'IVF {ivf}', IVF_HELP)}<span>{looked}</span>"
        f"{explained(f'IVF kept {found.kept} of {len(found.flat.hits)}', KEPT_HELP)}</p>"
    )
