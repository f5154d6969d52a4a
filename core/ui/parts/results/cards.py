"""Pictures as cards: what a card shows, and what it carries for the picture's detail view."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from core.records import CORRECTED, LENSES, UNSURE, Caption, FusedHit, Hit, ImageRecord, Lens
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.parts.markup import BOTH_MARK, LENS_WORDS, escape, ordinal
from core.ui.parts.results.sureness import DOUBT, sure_of_its_words, sureness, with_sureness

ALIKE = 0.96
"""Cosine of two pictures' CLIP embeddings from which they are nearly the same: copies of half the
size or at JPEG quality 40 have 0.98 and more, the nearest of 600 different photos 0.93."""

_FLAG_SENTENCES = {
    "empty": "The captioner wrote nothing for this picture.",
    "repetition": "The caption repeats itself.",
    "prompt_echo": "The caption echoes the instruction it was given.",
    "retried": "This is the captioner's second try; the first was doubtful.",
    UNSURE: f"Unsure: {DOUBT}.",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one query ranked the pictures of a gallery, through both lenses.

    Attributes:
        query: The words, as typed; "" when the pictures were not found by words.
        hits: For each lens that answered, its first hits by image id.
        left: How many pictures were ranked; None for the whole gallery.
    """

    query: str = ""
    hits: Mapping[Lens, Mapping[str, Hit]] = field(default_factory=dict)
    left: int | None = None

    def nearest_caption(self, image_id: str) -> int:
        """Return which of a picture's captions is nearest to the query, from 0; 0 if unknown."""
        hit = self.hits.get("captions", {}).get(image_id)
        return hit.caption if hit else 0

    def describe(self, image_id: str, gallery_size: int) -> list[dict[str, str]]:
        """Return one line for each lens that answered: its id, its title and where it stands."""
        lines = []
        ranked = gallery_size if self.left is None else self.left
        for lens in LENSES:
            if lens not in self.hits:
                continue
            found = self.hits[lens]
            hit = found.get(image_id)
            place = (
                f"{ordinal(hit.rank)} of {ranked} · score {hit.score:.2f}"
                if hit
                else f"not among its first {len(found)}"
            )
            lines.append({"lens": lens, "title": LENS_WORDS[lens].title, "place": place})
        return lines


def standing_of(
    query: str, rankings: Mapping[Lens, Sequence[Hit]], left: int | None = None
) -> Standing:
    """Return where the pictures stand in each lens's ranking for a query.

    Args:
        query: The words, as typed.
        rankings: The first hits of each lens that answered.
        left: How many pictures were ranked; None for the whole gallery.
    """
    hits = {lens: {hit.id: hit for hit in ranking} for lens, ranking in rankings.items()}
    return Standing(query, hits, left)


def alt_text(record: ImageRecord) -> str:
    """Return the caption and any doubt about it, or the file's name where there is none."""
    return with_sureness(record.captions[0]) if record.caption else record.file_name


def safe_link(address: str | None) -> str:
    """Return an address that may become a link, or "": only http and https do."""
    if not address:
        return ""
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return ""
    return address.strip() if parts.scheme in ("http", "https") and parts.netloc else ""


def detail_of(
    entry: ShelvedGallery, record: ImageRecord, standing: Standing, nearest: int = 0
) -> dict[str, object]:
    """Return what the detail view shows of a picture, as plain text values for JSON.

    Args:
        entry: The gallery it is in.
        record: The picture.
        standing: Where the query ranked it.
        nearest: Which of its captions is shown first.
    """
    shown = record.captions[nearest]
    sure = sure_of_its_words(shown)
    return {
        "id": record.id,
        "gallery": entry.public_slug,
        "src": entry.thumbnail_url(record.id),
        "large": entry.large_url(record.id),
        "caption": shown.text,
        "more": [with_sureness(caption) for caption in _others(record, nearest)],
        "alt": alt_text(record),
        "origin": entry.origin_of(record),
        "confidence": f"{sure} of its words, on average" if sure else "",
        "flags": [_FLAG_SENTENCES.get(f, f) for f in shown.flags if f != CORRECTED],
        "file": record.file_name,
        "width": record.width,
        "size": f"{record.width} × {record.height} pixels",
        "licence": record.license or "",
        "source": safe_link(record.source_url),
        "query": standing.query,
        "ranks": standing.describe(record.id, len(entry.gallery)),
    }


def card(
    entry: ShelvedGallery,
    image_id: str,
    standing: Standing,
    *,
    facts: str = "",
    caption: bool = False,
    nearest: int = 0,
    both: bool = False,
) -> str:
    """Return one picture as a list item with a button that opens its detail view.

    Args:
        entry: The gallery it is in.
        image_id: Its id.
        standing: Where the query ranked it.
        facts: HTML under the picture: rank, score.
        caption: Whether its caption is shown; the alternative text has it in any case.
        nearest: Which of its captions is shown, from 0; the others are there on demand.
        both: Whether both lenses found it.
    """
    record = entry.gallery.record(image_id)
    detail = escape(json.dumps(detail_of(entry, record, standing, nearest), ensure_ascii=False))
    badge = f'<span class="tl-both">{BOTH_MARK}<span>both</span></span>' if both else ""
    words = more = ""
    if caption:
        shown = escape(record.captions[nearest].text) or "no caption"
        words = f'<span class="tl-caption"><span>{shown}</span></span>'
        # Without a confidence the line stays, empty: rows of one height do not make the page jump.
        words += sureness(record.captions[nearest]) or '<span class="tl-sure"></span>'
        more = _more_captions(_others(record, nearest))
    return (
        f'<li class="tl-item"><button type="button" class="tl-card{" is-both" if both else ""}" '
        f'data-picture="{detail}"><span class="tl-frame"><img src="'
        f'{escape(entry.thumbnail_url(record.id))}" alt="{escape(alt_text(record))}" '
        f'width="{record.width}" height="{record.height}" loading="lazy" decoding="async">'
        f"{badge}</span>{facts}{words}</button>{more}</li>"
    )


def _others(record: ImageRecord, nearest: int) -> list[Caption]:
    return [caption for place, caption in enumerate(record.captions) if place != nearest]


def _more_captions(others: Sequence[Caption]) -> str:
    if not others:
        return ""
    items = "".join(f"<li>{escape(with_sureness(caption))}</li>" for caption in others)
    plural = "" if len(others) == 1 else "s"
    return (
        f'<details class="tl-more"><summary>{len(others)} more caption{plural}</summary>'
        f"<ul>{items}</ul></details>"
    )


def score_facts(rank: int, score: float, scale: tuple[float, float] | None) -> str:
    """Return rank, a bar, and the score.

    Args:
        rank: From 1.
        score: Of the lens.
        scale: The scores at which a bar is empty and full, the same for every query: the best of
            five bad pictures has a short one. None leaves the bar out.
    """
    bar = ""
    if scale is not None:
        low, high = scale
        share = max(0.04, min(1.0, (score - low) / (high - low)))
        bar = f'<i style="width:{share:.0%}"></i>'
    return (
        f'<span class="tl-facts"><span class="tl-rank">{rank}</span>'
        f'<span class="tl-bar{"" if bar else " is-unknown"}" aria-hidden="true">{bar}</span>'
        f'<span class="tl-score"><span class="tl-sr">score </span>{score:.2f}</span></span>'
    )


def hit_row(
    entry: ShelvedGallery,
    hits: Sequence[Hit],
    standing: Standing,
    *,
    lens: Lens,
    found_by_both: frozenset[str] = frozenset(),
) -> str:
    """Return the pictures of one lens's ranking, best first."""
    scale = entry.score_range(lens)
    items: dict[str, list[str]] = {}
    firsts = firsts_of_alike(entry, [hit.id for hit in hits])
    for hit in hits:
        item = card(
            entry,
            hit.id,
            standing,
            facts=score_facts(hit.rank, hit.score, scale),
            caption=lens == "captions",
            nearest=hit.caption if lens == "captions" else standing.nearest_caption(hit.id),
            both=hit.id in found_by_both,
        )
        items.setdefault(firsts[hit.id], []).append(item)
    shown = "".join(_with_alike(first, alike) for first, *alike in items.values())
    return f'<ol class="tl-row">{shown}</ol>'


def fill_row(entry: ShelvedGallery, hits: Sequence[Hit], cards: int) -> tuple[Hit, ...]:
    """Return the first hits that make so many cards, those that are nearly the same in one.

    Args:
        entry: The gallery they are in.
        hits: Best first, more than are wanted where there are more.
        cards: How many.
    """
    taken = cards
    while True:
        firsts = firsts_of_alike(entry, [hit.id for hit in hits[:taken]])
        missing = cards - len(set(firsts.values()))
        if missing <= 0 or taken >= len(hits):
            return tuple(hits[:taken])
        taken += missing


def firsts_of_alike(entry: ShelvedGallery, image_ids: Sequence[str]) -> dict[str, str]:
    """Return for each picture the first one, or itself, that is nearly the same as it.

    Copies of another size or quality are; another photo of the same scene mostly is not.
    """
    if len(image_ids) < 2:
        return {image_id: image_id for image_id in image_ids}
    rows = np.stack([entry.gallery.embedding("clip", image_id) for image_id in image_ids])
    alike = rows @ rows.T >= ALIKE
    firsts: dict[str, str] = {}
    for place, image_id in enumerate(image_ids):
        before = (other for other in range(place) if alike[place, other])
        firsts[image_id] = next((firsts[image_ids[other]] for other in before), image_id)
    return firsts


def _with_alike(item: str, alike: Sequence[str]) -> str:
    """Return a card with those that are nearly the same folded under it."""
    if not alike:
        return item
    folded = (
        f'<details class="tl-alike"><summary>+{len(alike)} nearly the same</summary>'
        f"<ol>{''.join(alike)}</ol></details>"
    )
    return f"{item.removesuffix('</li>')}{folded}</li>"


def fused_row(
    entry: ShelvedGallery,
    hits: Sequence[FusedHit],
    standing: Standing,
    found_by_both: frozenset[str] = frozenset(),
) -> str:
    """Return the pictures of a fused ranking, each with its place in the lenses that found it."""
    items = fused_cards(entry, hits, standing, found_by_both)
    return f'<ol class="tl-row">{"".join(items)}</ol>'


def fused_cards(
    entry: ShelvedGallery,
    hits: Sequence[FusedHit],
    standing: Standing,
    found_by_both: frozenset[str] = frozenset(),
) -> list[str]:
    """Return the list items of :func:`fused_row`."""
    items = []
    for hit in hits:
        places = "".join(
            f'<span class="tl-place {lens}">{LENS_WORDS[lens].mark}'
            f'<span class="tl-sr">{LENS_WORDS[lens].title} </span>{hit.sources[lens].rank}</span>'
            for lens in LENSES
            if lens in hit.sources
        )
        if "text" in hit.sources:
            places += f'<span class="tl-place">text {hit.sources["text"].rank}</span>'
        facts = (
            f'<span class="tl-facts"><span class="tl-rank">{hit.rank}</span>'
            f'<span class="tl-places">{places}</span></span>'
        )
        items.append(
            card(
                entry,
                hit.id,
                standing,
                facts=facts,
                caption=True,
                nearest=standing.nearest_caption(hit.id),
                both=hit.id in found_by_both,
            )
        )
    return items


def plain_row(entry: ShelvedGallery, image_ids: Sequence[str], within: str = "") -> str:
    """Return pictures that no query ranked, with their captions.

    Args:
        entry: The gallery they are in.
        image_ids: Theirs.
        within: The filters that chose them, for a query that goes on from one of them; or "".
    """
    items = [card(entry, image_id, Standing(), caption=True) for image_id in image_ids]
    among = f' data-within="{escape(within)}"' if within else ""
    return f'<ol class="tl-row"{among}>{"".join(items)}</ol>'


def skeleton_row() -> str:
    """Return a row of five placeholders of a card's shape."""
    block = '<li class="tl-item"><span class="tl-frame"></span><span class="tl-facts"></span></li>'
    return f'<ul class="tl-row">{block * 5}</ul>'
