"""The Compare tab: one query, both lenses side by side, and the best of both."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from core.records import LENSES, Lens
from core.search.query import picture_count
from core.search.service import Comparison, SearchResult
from core.ui.parts.cards import Standing, fused_row, hit_row, standing_of
from core.ui.parts.events import SEARCH_EVENT, event_value
from core.ui.parts.markup import BOTH_MARK, LENS_WORDS, explained, stage
from core.ui.parts.search_box import RESULTS_BRIDGE, SearchBox, search_box
from core.ui.parts.shelf import Shelf, ShelvedGallery
from core.ui.parts.similar import similar_answer
from core.ui.parts.states import (
    answered,
    examples_line,
    fewer_note,
    lens_failure,
    lens_heading,
    start_state,
    top_pictures,
    two_lens_skeleton,
    weak_note,
)

OVERLAP_HELP = "How many of the pictures shown by one lens the other one shows too."
JACCARD_HELP = (
    "Pictures that both lenses show, divided by all pictures that either shows: 1 if they show "
    "the same pictures, 0 if they share none."
)
RBO_HELP = (
    "Rank-biased overlap: agreement that counts the first places most. 1 if both lenses give the "
    "same order, 0 if they share no picture."
)
FUSION_HELP = (
    "Reciprocal-rank fusion: a picture earns 1 / (60 + rank) from each lens that found it. It uses "
    "places, not scores, because the scores of the two lenses cannot be compared."
)


@dataclass(frozen=True, slots=True)
class CompareTab:
    """The components of the tab that the rest of the page needs."""

    box: SearchBox
    results: gr.HTML


def compare_tab(shelf: Shelf, gallery: gr.Component) -> CompareTab:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery to search.
    """
    box = search_box("compare", k_label="Pictures per lens")
    results = gr.HTML(
        start_state(shelf, None),
        elem_classes=["tl-bare", "tl-results"],
        js_on_load=RESULTS_BRIDGE,
        apply_default_css=False,
    )

    def on_search(query: str, k: object, gallery_name: str) -> str:
        return answered(shelf, gallery_name, lambda: answer(shelf, query, k, gallery_name))

    def on_pick(k: object, gallery_name: str, event: gr.EventData) -> tuple[str, str]:
        query = event_value(event, "query")
        return query, on_search(query, k, gallery_name)

    def on_similar(k: object, gallery_name: str, event: gr.EventData) -> str:
        return answered(shelf, gallery_name, lambda: similar_answer(shelf, event, k, gallery_name))

    gr.on(
        [box.query.submit, box.button.click],
        on_search,
        [box.query, box.k, gallery],
        results,
        **SEARCH_EVENT,
    )
    results.pick(on_pick, [box.k, gallery], [box.query, results], **SEARCH_EVENT)
    results.similar(on_similar, [box.k, gallery], results, **SEARCH_EVENT)
    return CompareTab(box, results)


def answer(shelf: Shelf, query: str, k: object, gallery_name: str) -> str:
    """Return the results area for a query; the start state for an empty one.

    Raises:
        QueryError: The query or k cannot be answered.
    """
    if not shelf.entries or not (query or "").strip():
        return start_state(shelf, gallery_name)
    entry = shelf.entry(gallery_name)
    asked = picture_count(k)
    comparison = entry.service.compare(query, k=asked)
    standing = standing_of(comparison.query, comparison.rankings)
    ids = [hit.id for hit in comparison.fused]
    return stage(
        _comparison(entry, comparison, standing, asked),
        two_lens_skeleton(),
        summary=f"{_agreement_words(comparison)} {top_pictures(entry, ids, 'Best of both')}",
    )


def _comparison(
    entry: ShelvedGallery, comparison: Comparison, standing: Standing, asked: int
) -> str:
    both = _found_by_both(comparison)
    lenses = "".join(_lens(entry, comparison, standing, lens, both) for lens in LENSES)
    shown = max((len(found.hits) for found in _answers(comparison)), default=0)
    return (
        f"{examples_line(entry, comparison.query)}{_agreement(comparison)}"
        f'<div class="tl-lenses">{lenses}</div>'
        f'<p class="tl-note">The scores of the two lenses are on different scales and cannot be '
        f"compared with each other; a bar shows a score against the best one of its own lens.</p>"
        f"{weak_note(comparison.captions)}{fewer_note(shown, asked)}"
        f"{_fused(entry, comparison, standing, both)}"
    )


def _answers(comparison: Comparison) -> list[SearchResult]:
    return [found for found in (comparison.captions, comparison.clip) if found is not None]


def _found_by_both(comparison: Comparison) -> frozenset[str]:
    if comparison.captions is None or comparison.clip is None:
        return frozenset()
    captions = {hit.id for hit in comparison.captions.hits}
    return frozenset(captions & {hit.id for hit in comparison.clip.hits})


def _agreement_words(comparison: Comparison) -> str:
    if not _answers(comparison):
        return "No lens could answer."
    if comparison.captions is None or comparison.clip is None:
        return "Only one lens answered."
    shown = max(len(comparison.captions.hits), len(comparison.clip.hits))
    common = len(_found_by_both(comparison))
    if common == 0:
        return f"They agree on none of {shown}."
    return (
        f"They agree on {common} of {shown}." if common < shown else f"They agree on all {shown}."
    )


def _agreement(comparison: Comparison) -> str:
    agreement = comparison.agreement
    if agreement is None:
        return ""
    words = _agreement_words(comparison).rstrip(".")
    return (
        f'<p class="tl-agree"><strong>{BOTH_MARK}{words}</strong>'
        f"{explained(f'overlap {agreement.overlap:.0%}', OVERLAP_HELP)}"
        f"{explained(f'Jaccard {agreement.jaccard:.2f}', JACCARD_HELP)}"
        f"{explained(f'RBO {agreement.rbo:.2f}', RBO_HELP)}</p>"
    )


def _lens(
    entry: ShelvedGallery,
    comparison: Comparison,
    standing: Standing,
    lens: Lens,
    both: frozenset[str],
) -> str:
    result = comparison.captions if lens == "captions" else comparison.clip
    label = f'<section class="tl-lens {lens}" aria-label="{LENS_WORDS[lens].title}">'
    if result is None:
        sentence = comparison.failures.get(lens, "")
        return f"{label}{lens_failure(lens, sentence)}</section>"
    row = hit_row(entry, result.hits, standing, lens=lens, found_by_both=both)
    return f"{label}{lens_heading(lens, result)}{row}</section>"


def _fused(
    entry: ShelvedGallery,
    comparison: Comparison,
    standing: Standing,
    both: frozenset[str],
) -> str:
    if comparison.failures:
        return ""
    return (
        f'<section class="tl-lens both wide" aria-label="Best of both">'
        f'<header class="tl-lens-head"><h2>{BOTH_MARK}Best of both '
        f"<small>{explained('fused by reciprocal rank', FUSION_HELP)}</small></h2></header>"
        f"{fused_row(entry, comparison.fused, standing, both)}</section>"
    )
