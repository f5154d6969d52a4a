"""The Compare tab: one query, both lenses side by side, and the best of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import gradio as gr

from core.records import LENSES, Lens
from core.search.agreement import agreement, shared_by_chance
from core.search.query import picture_count
from core.search.results import Comparison, SearchResult
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import SEARCH_EVENT, event_value
from core.ui.parts.markup import (
    BOTH_MARK,
    LENS_WORDS,
    explained,
    stage,
)
from core.ui.parts.query.query_chips import above_results
from core.ui.parts.query.search_box import RESULTS_BRIDGE, SearchBox, search_box
from core.ui.parts.results.cards import (
    Standing,
    fill_row,
    hit_row,
    standing_of,
)
from core.ui.parts.results.measured import measured_line, solved_queries
from core.ui.parts.results.paging import browse_view, filtered_state, page_start, pager
from core.ui.parts.results.similar import asked_similar, similar_view
from core.ui.parts.results.states import (
    answered,
    details,
    examples_line,
    examples_of,
    fewer_note,
    lens_failure,
    lens_heading,
    match_note,
    opening_state,
    start_state,
    timing,
    toolbar,
    top_pictures,
    two_lens_skeleton,
)
from core.ui.parts.share import View, addressed, as_text
from core.ui.tabs.best_of_both import mixed_row
from core.ui.tabs.text_and_rerank import further_rows, joins_text, rerank_answer

CHANCE_HELP = (
    "Two lenses that chose their pictures blindly would have this many in common on average: the "
    "pictures of one times those of the other, divided by all in the gallery."
)
OVERLAP_HELP = "of the pictures shown by one lens the other one shows too."
JACCARD_HELP = "pictures that both lenses show, divided by all that either shows."
RBO_HELP = (
    "rank-biased overlap, agreement that counts the first places most: 1 for the same order, 0 "
    "for no picture in common."
)
DEEPEST = 500
"""Pictures after which there is no further page: each page is fused anew from the first rank on."""


@dataclass(frozen=True, slots=True)
class CompareTab:
    """The components of the tab that the rest of the page needs.

    Attributes:
        box: What is asked.
        results: What was found.
        more: Holds, unseen, what is shown beside both lenses.
    """

    box: SearchBox
    results: gr.HTML
    more: gr.Textbox


def compare_tab(shelf: Shelf, gallery: gr.Component) -> CompareTab:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery to search.
    """
    box = search_box("compare", k_label="Pictures per lens")
    results = gr.HTML(
        opening_state(shelf),
        elem_classes=["tl-bare", "tl-results"],
        js_on_load=RESULTS_BRIDGE,
        apply_default_css=False,
    )

    more = gr.Textbox(visible="hidden")

    def on_search(query: str, k: object, gallery_name: str, more: str) -> str:
        return search(shelf, query, k, gallery_name, more=more)

    def on_pick(k: object, gallery_name: str, more: str, event: gr.EventData) -> tuple[str, str]:
        query = event_value(event, "query")
        return query, on_search(query, k, gallery_name, more)

    def on_more(k: object, gallery_name: str, event: gr.EventData) -> tuple[str, str]:
        added = event_value(event, "more", 20)
        return added, on_search(event_value(event, "query"), k, gallery_name, added)

    def on_page(k: object, gallery_name: str, more: str, event: gr.EventData) -> str:
        query, start = event_value(event, "query"), event_value(event, "start", 20)
        if not query:
            return browse_view(shelf, View("compare", "", gallery_name or "", start=start))
        return search(shelf, query, k, gallery_name, start, more=more)

    def on_similar(k: object, gallery_name: str, event: gr.EventData) -> str:
        query, name = event_value(event, "query"), gallery_name or ""
        view = View("compare", query, name, as_text(k), s=asked_similar(event))
        return similar_view(shelf, view)

    gr.on(
        box.asked,
        on_search,
        [box.query, box.k, gallery, more],
        results,
        **SEARCH_EVENT,
    )
    results.more(on_more, [box.k, gallery], [more, results], **SEARCH_EVENT)
    results.pick(on_pick, [box.k, gallery, more], [box.query, results], **SEARCH_EVENT)
    results.similar(on_similar, [box.k, gallery], results, **SEARCH_EVENT)
    results.turn(on_page, [box.k, gallery, more], results, **SEARCH_EVENT)

    def on_rerank(gallery_name: str, event: gr.EventData) -> str:
        query = event_value(event, "query")
        return answered(shelf, gallery_name, lambda: rerank_answer(shelf, query, gallery_name))

    results.rerank(on_rerank, gallery, results, **SEARCH_EVENT)
    return CompareTab(box, results, more)


def search(
    shelf: Shelf, query: str, k: object, gallery_name: str, start: str = "", *, more: str = ""
) -> str:
    """Return the results area for a query, or a state that says why there are no results."""

    def found() -> str:
        first = page_start(start or "0")
        return answer(shelf, query, k, gallery_name, start=first, more=more or "")

    page, name = start if start.strip("0") else "", gallery_name or ""
    view = View("compare", query or "", name, as_text(k), start=page, more=more or "")
    return addressed(view, answered(shelf, gallery_name, found))


def answer(
    shelf: Shelf,
    query: str,
    k: object,
    gallery_name: str,
    *,
    start: int = 0,
    more: str | None = None,
) -> str:
    """Return the results area for a query; the start state for an empty one.

    Args:
        shelf: The galleries.
        query: The words.
        k: Pictures a page, of each lens.
        gallery_name: Which gallery is searched.
        start: Pictures before the page.
        more: What is shown beside both lenses; None offers nothing either.

    Raises:
        QueryError: The query or k cannot be answered.
    """
    if not shelf.entries or not (query or "").strip():
        return start_state(shelf, gallery_name)
    entry = shelf.entry(gallery_name)
    asked = picture_count(k)
    parsed = entry.service.parse(query)
    if not parsed.parts:
        return filtered_state(entry, parsed, start)
    start = min(start, DEEPEST - 1, max(0, len(entry.gallery) - 1))
    text = entry.gallery.text_hits if joins_text(entry, more) else None
    comparison = entry.service.compare(query, k=asked, start=start, text=text)
    if _left(comparison) == 0:
        return filtered_state(entry, parsed, 0)
    comparison = _filled(entry, comparison, start, asked)
    standing = standing_of(comparison.query, comparison.rankings, _left(comparison))
    ids = [hit.id for hit in comparison.fused]
    return stage(
        _comparison(entry, comparison, standing, start, asked, more),
        two_lens_skeleton(),
        summary=f"{_agreement_words(comparison)} {top_pictures(entry, ids, 'Best of both')}",
        query=comparison.query,
    )


def _filled(entry: ShelvedGallery, comparison: Comparison, start: int, asked: int) -> Comparison:
    """Return a comparison whose lenses have a full row of cards, what is nearly the same in one."""
    shown = {
        found.lens: replace(
            found, hits=fill_row(entry, comparison.rankings[found.lens][start:], asked)
        )
        for found in _answers(comparison)
    }
    if all(len(found.hits) <= asked for found in shown.values()):
        return comparison
    ids = {lens: [hit.id for hit in found.hits] for lens, found in shown.items()}
    return replace(
        comparison,
        captions=shown.get("captions"),
        clip=shown.get("clip"),
        agreement=agreement(ids["captions"], ids["clip"]) if len(ids) == len(LENSES) else None,
    )


def _comparison(
    entry: ShelvedGallery,
    comparison: Comparison,
    standing: Standing,
    start: int,
    asked: int,
    more: str | None,
) -> str:
    both = _found_by_both(comparison)
    parsed = entry.service.parse(comparison.query)
    lenses = "".join(
        _lens(entry, comparison, standing, lens, both, first_page=start == 0) for lens in LENSES
    )
    shown = max((len(found.hits) for found in _answers(comparison)), default=0)
    left = _left(comparison)
    total = len(entry.gallery) if left is None else left
    rows, offers = "", ""
    if more is not None and not start:
        rows, offers = further_rows(entry, parsed, standing, asked, more)
    pages = pager(start, shown, total, asked, comparison.query, DEEPEST)
    return (
        f"{examples_line(entry, comparison.query)}{above_results(entry, parsed)}"
        f"{'' if start else _agreement(entry, comparison)}"
        f'<div class="tl-lenses">{lenses}</div>'
        f'<p class="tl-note">The scores of the two lenses are on different scales and cannot be '
        f"compared with each other.</p>"
        f"{'' if start else fewer_note(shown, asked, left)}"
        f"{mixed_row(entry, comparison, standing, both, start, asked)}"
        f"{rows}{toolbar(pages, offers)}{_details(comparison)}"
    )


def _answers(comparison: Comparison) -> list[SearchResult]:
    return [found for found in (comparison.captions, comparison.clip) if found is not None]


def _left(comparison: Comparison) -> int | None:
    """Return how many pictures the query's filters leave; None without filters."""
    return next((found.left for found in _answers(comparison)), None)


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


def _agreement(entry: ShelvedGallery, comparison: Comparison) -> str:
    if comparison.captions is None or comparison.clip is None:
        return ""
    words = _agreement_words(comparison).rstrip(".")
    captions, clip = (len(found.hits) for found in (comparison.captions, comparison.clip))
    left = _left(comparison)
    chance = shared_by_chance(captions, clip, len(entry.gallery) if left is None else left)
    by_chance = f"{chance:.1f}".removesuffix(".0") if chance >= 0.1 else "under 0.1"
    offered = comparison.query in (*examples_of(entry), *solved_queries(entry))
    return (
        f'<p class="tl-agree"><strong>{BOTH_MARK}{words}</strong>'
        f"{explained(f'by chance it would be {by_chance}', CHANCE_HELP)}"
        f"{measured_line(entry) if offered else ''}</p>"
    )


def _details(comparison: Comparison) -> str:
    facts = [timing(found) for found in _answers(comparison)]
    if comparison.agreement is not None:
        agreement = comparison.agreement
        facts += [
            ("Overlap", f"{agreement.overlap:.0%}", OVERLAP_HELP),
            ("Jaccard", f"{agreement.jaccard:.2f}", JACCARD_HELP),
            ("RBO", f"{agreement.rbo:.2f}", RBO_HELP),
        ]
    return details(facts) if facts else ""


def _lens(
    entry: ShelvedGallery,
    comparison: Comparison,
    standing: Standing,
    lens: Lens,
    both: frozenset[str],
    *,
    first_page: bool,
) -> str:
    result = comparison.captions if lens == "captions" else comparison.clip
    label = f'<section class="tl-lens {lens}" aria-label="{LENS_WORDS[lens].title}">'
    if result is None:
        sentence = comparison.failures.get(lens, "")
        return f"{label}{lens_failure(lens, sentence)}</section>"
    row = hit_row(entry, result.hits, standing, lens=lens, found_by_both=both)
    note = match_note(entry, result, comparison.query) if first_page else ""
    return f"{label}{lens_heading(lens, note=note)}{row}</section>"
