"""Small pieces of HTML that every tab uses. Whatever a visitor or a model wrote is escaped here."""

from __future__ import annotations

import html
import secrets
from dataclasses import dataclass

from core.models.clip.hubs import SHARE
from core.records import Fusion, Lens
from core.search.fusion import TEXT_WEIGHT

escape = html.escape
"""Escape text for an element or a double-quoted attribute."""


@dataclass(frozen=True, slots=True)
class LensWords:
    """How the page speaks of a lens.

    Attributes:
        title: Its name.
        verb: What it does, in two words.
        how: One sentence on how it works.
        mark: An icon, so that colour never stands alone.
    """

    title: str
    verb: str
    how: str
    mark: str


def _icon(shapes: str) -> str:
    return (
        '<svg class="tl-icon" viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" '
        f'focusable="false">{shapes}</svg>'
    )


QUOTE_MARK = _icon(
    '<path fill="currentColor" d="M4 18v-6C4 8.2 6 5.7 9.6 5l.5 2.1C8.2 7.7 7.2 8.9 7 11h3v7z'
    'M14 18v-6c0-3.8 2-6.3 5.6-7l.5 2.1C18.2 7.7 17.2 8.9 17 11h3v7z"/>'
)
EYE_MARK = _icon(
    '<path fill="none" stroke="currentColor" stroke-width="2" d="M2 12s3.6-6.5 10-6.5S22 12 22 '
    '12s-3.6 6.5-10 6.5S2 12 2 12z"/><circle cx="12" cy="12" r="3.3" fill="currentColor"/>'
)
BOTH_MARK = _icon(
    '<circle cx="9" cy="12" r="6" fill="none" stroke="currentColor" stroke-width="2"/>'
    '<circle cx="15" cy="12" r="6" fill="none" stroke="currentColor" stroke-width="2"/>'
    '<path fill="currentColor" d="M12 6.8a6 6 0 0 1 0 10.4a6 6 0 0 1 0-10.4z"/>'
)

LENS_WORDS: dict[Lens, LensWords] = {
    "captions": LensWords(
        title="Caption lens",
        verb="reads captions",
        how="A model wrote a caption for each picture; your words are compared with the captions.",
        mark=QUOTE_MARK,
    ),
    "clip": LensWords(
        title="CLIP lens",
        verb="sees pictures",
        how="Your words are compared with the pictures themselves; no caption is read.",
        mark=EYE_MARK,
    ),
}


@dataclass(frozen=True, slots=True)
class FusionWords:
    """How the page speaks of a fusion.

    Attributes:
        short: A few words.
        long: What is done, in a sentence or two.
    """

    short: str
    long: str


def fusion_words(fusion: Fusion, *, with_text: bool = False) -> FusionWords:
    """Return how the page says that the lenses are joined, and the text in the pictures if so."""
    if with_text:
        words = fusion_words(fusion)
        counts = (
            "The text in a picture counts as a third lens."
            if fusion.kind == "rrf"
            else f"The text in a picture adds {TEXT_WEIGHT:g} times the share of your words in it."
        )
        return FusionWords(f"{words.short}, and text", f"{words.long} {counts}")
    captions, clip = f"{fusion.weight:.0%}", f"{1 - fusion.weight:.0%}"
    if fusion.kind == "rrf":
        share = "" if fusion.weight == 0.5 else f", captions {captions}"
        return FusionWords(
            f"joined by rank{share}",
            f"Reciprocal rank fusion (RRF): a picture earns 1 / ({fusion.k} + its rank) from each "
            "lens. Scores do not count, so their different scales do no harm.",
        )
    share = f"{captions} captions and {clip} CLIP"
    if fusion.weight in (0, 1):
        share = f"{'captions' if fusion.weight else 'CLIP'} alone"
        if fusion.kind == "corrected" and not fusion.weight:
            share = "CLIP alone, corrected"
    scaled = {
        "cosine": "as they are",
        "minmax": "stretched from 0 to 1",
        "zscore": "as z-scores: how far above the mean of all pictures, in standard deviations",
    }
    added = f"The scores of both lenses are added, {scaled.get(fusion.kind, scaled['zscore'])}."
    if fusion.kind == "corrected":
        added += (
            " Some pictures are near to every text in CLIP's space and come up for any words: "
            f"{SHARE:.0%} of how near a picture is to captions of other photos is taken off first."
        )
    return FusionWords(f"joined by score, {share}", added)


def explained(text: str, explanation: str) -> str:
    """Return a term whose explanation shows on hover, focus or tap. Both are plain text."""
    tip = f"tip-{secrets.token_hex(4)}"
    return (
        f'<span class="tl-term" tabindex="0" aria-describedby="{tip}">{escape(text)}'
        f'<span class="tl-tip" role="tooltip" id="{tip}">{escape(explanation)}</span></span>'
    )


def stage(answer: str, skeleton: str, *, summary: str = "", query: str = "") -> str:
    """Return one whole results area: what is shown, and under it what is shown while searching.

    The element's name is new each time. Gradio patches old elements into new ones, and a picture
    that is patched goes on showing the last result until its file has come.

    Args:
        answer: HTML of the results or of a state.
        skeleton: HTML of placeholders of the same shape.
        summary: Plain text for screen readers, announced when it appears.
        query: The words that were answered; the page then knows whose results it shows.
    """
    tag = f"tl-stage-{secrets.token_hex(4)}"
    asked = f' data-asked="{escape(query)}"' if query else ""
    return (
        f'<{tag} class="tl-stage"{asked} data-summary="{escape(summary)}">'
        f'<div class="tl-answer" tabindex="-1">{answer}</div>'
        f'<div class="tl-skeleton" aria-hidden="true">{skeleton}</div></{tag}>'
    )


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, 11th, 21st ..."""
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def milliseconds(value: float) -> str:
    """Return a duration in ms with two digits that matter: ``0.13 ms``, ``2.4 ms``, ``18 ms``."""
    if value < 0.01:
        return "under 0.01 ms"
    if value < 1:
        return f"{value:.2f} ms"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
