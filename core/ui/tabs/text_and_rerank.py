"""What a visitor can ask for beyond both lenses: the text in the pictures, and a reranking."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from core.config import get_settings
from core.errors import QueryError
from core.images.decode import DecodeLimits, decode
from core.records import Hit
from core.search.query_language.parse import ParsedQuery
from core.search.reranking import RERANKED, rerank
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.markup import escape, explained, ordinal, stage
from core.ui.parts.results.cards import Standing, card, score_facts, standing_of
from core.ui.parts.results.states import lens_heading, two_lens_skeleton
from core.ui.parts.results.word_row import WORDS, switch, word_row

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT = "text"
"""Says, in a view and its address, that the row of text in the pictures is shown."""

_TEXT_HELP = (
    "Words were read in the pictures when the gallery was built. A picture is found if one of them "
    "is nearly one of yours: readers of signs mistake letters. While this row is shown, it counts "
    "in Best of both too."
)


def joins_text(entry: ShelvedGallery, more: str | None) -> bool:
    """Tell whether the text in the pictures counts in the fused row: where its row is shown.

    Args:
        entry: The gallery.
        more: Names of the rows that are shown, with commas between.
    """
    return entry.has_text and TEXT in (more or "").split(",")


def further_rows(
    entry: ShelvedGallery, query: ParsedQuery, standing: Standing, k: int, more: str
) -> tuple[str, str]:
    """Return the rows that a visitor has added, and buttons for what they have not; HTML each.

    Args:
        entry: The gallery.
        query: What was asked.
        standing: Where both lenses ranked the pictures.
        k: Pictures of a row.
        more: Names of the rows that are shown, with commas between.
    """
    kinds = (WORDS, TEXT) if entry.has_text else (WORDS,)
    shown = [kind for kind in kinds if kind in more.split(",")]

    def turned(kind: str) -> str:
        return ",".join(each for each in kinds if (each in shown) != (each == kind))

    rows, buttons = "", ""
    if WORDS in shown:
        rows += word_row(entry, query, standing, k, turned(WORDS))
    else:
        buttons += switch(turned(WORDS), "Add words in captions (BM25)", query.text)
    if TEXT in shown:
        rows += _text_row(entry, query, standing, k, turned(TEXT))
    elif TEXT in kinds:
        buttons += switch(turned(TEXT), "Add text in the pictures", query.text)
    matcher = entry.service.models.matcher
    if matcher is not None and entry.public_slug:  # for what is served to everybody
        count = min(RERANKED, len(entry.gallery))
        buttons += (
            f'<button type="button" class="tl-chip" data-rerank="{escape(query.text)}">'
            f"Rerank CLIP’s first {count} by {escape(matcher.spec.name)}</button>"
        )
    return rows, f'<p class="tl-further">{buttons}</p>' if buttons else ""


def _text_row(
    entry: ShelvedGallery, query: ParsedQuery, standing: Standing, k: int, without: str
) -> str:
    items = "".join(
        card(
            entry,
            each.hit.id,
            standing,
            facts=f'<span class="tl-facts"><span class="tl-rank">{each.hit.rank}</span>'
            f'<span class="tl-read"><span class="tl-sr">it reads </span>'
            f"{escape(' '.join(each.words))}</span></span>",
        )
        for each in entry.gallery.text_hits(query, k)
    )
    shown = f'<ol class="tl-row">{items}</ol>' if items else ""
    none = "" if items else '<p class="tl-note">None of these words can be read in a picture.</p>'
    return (
        '<section class="tl-lens plain wide tl-text" aria-label="Text in the pictures">'
        '<header class="tl-lens-head"><h2>Text in the pictures <small>'
        f"{explained('reads signs', _TEXT_HELP)}</small></h2>"
        f"{switch(without, 'Hide', query.text)}</header>{none}{shown}</section>"
    )


def rerank_answer(shelf: Shelf, query: str, gallery_name: str) -> str:
    """Return CLIP's first pictures beside the same ones in the order of the reranking model.

    Raises:
        QueryError: The query cannot be answered, or no model reranks here.
        ModelError: The model cannot be loaded.
    """
    entry = shelf.entry(gallery_name)
    matcher = entry.service.models.matcher
    if matcher is None:
        raise QueryError("No model that reranks is set up here (TWOLENS_RERANKER).")
    hits = entry.service.by_text(query, k=RERANKED, lens="clip").hits
    asked = entry.service.parse(query)
    found = rerank(matcher, asked.words, hits, partial(picture_of, entry))
    standing = standing_of(asked.text, {"clip": hits})
    places = {hit.id: hit.rank for hit in found.before}
    name = escape(matcher.spec.name)
    back = (
        f'<p><button type="button" class="tl-chip" data-query="{escape(asked.text)}">'
        f"← {escape(asked.text)}</button></p>"
    )
    scale = entry.score_range("clip")
    before = _row(entry, standing, found.before, scale, {})
    after = _row(entry, standing, found.after, (0.0, 1.0), places)
    answer = (
        f'{back}<div class="tl-lenses"><section class="tl-lens clip" aria-label="Before">'
        f'{lens_heading("clip")}{before}</section><section class="tl-lens rerank" '
        f'aria-label="After"><header class="tl-lens-head"><h2>Reranked by {name} '
        f"<small>{found.seconds:.1f} s</small></h2></header>{after}</section></div>"
        '<p class="tl-note">It looks at each picture and your words together. Its score is the '
        "probability of a match; below it stands where CLIP had the picture.</p>"
    )
    first = places[found.after[0].id]
    summary = f"Reranked in {found.seconds:.1f} seconds. The first picture was {ordinal(first)}."
    return stage(answer, two_lens_skeleton(), summary=summary)


def _row(
    entry: ShelvedGallery,
    standing: Standing,
    hits: Sequence[Hit],
    scale: tuple[float, float] | None,
    came_from: dict[str, int],
) -> str:
    items = []
    for hit in hits:
        was = came_from.get(hit.id, hit.rank)
        moved = "" if was == hit.rank else f'<span class="tl-was">from {ordinal(was)}</span>'
        facts = score_facts(hit.rank, hit.score, scale)
        items.append(card(entry, hit.id, standing, facts=f"{facts}{moved}"))
    return f'<ol class="tl-row">{"".join(items)}</ol>'


def picture_of(entry: ShelvedGallery, image_id: str) -> Image:
    """Return a picture of a gallery: its large copy where one is kept, else the thumbnail."""
    gallery = entry.gallery
    large = gallery.has_large(image_id)
    content = gallery.read_large(image_id) if large else gallery.read_thumbnail(image_id)
    name = gallery.record(image_id).file_name
    return decode(content, name, DecodeLimits.of(get_settings())).image
