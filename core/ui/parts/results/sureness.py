"""How sure a caption is: three plain levels on a card, percentages in the detail view."""

from __future__ import annotations

from core.records import UNSURE, Caption

DOUBT = "the CLIP lens finds that this caption hardly fits its picture"
CONFIDENCE_HELP = (
    "How sure the captioner was of the words it chose. It can be sure of words that are wrong."
)
SURE_FROM = 0.5
"""Mean probability of its words from which a caption is called sure: about half of the shipped
captioner's captions of everyday photos."""


def level_of(caption: Caption) -> str:
    """Return ``sure``, ``fairly sure`` or ``unsure``; "" where nothing is known.

    A caption that the CLIP lens doubts is unsure, however sure the captioner was.
    """
    if UNSURE in caption.flags:
        return "unsure"
    if caption.confidence is None:
        return ""
    return "sure" if caption.confidence >= SURE_FROM else "fairly sure"


def sure_of_its_words(caption: Caption) -> str:
    """Return the confidence in words: ``"71% sure"``; "" where it is unknown."""
    return "" if caption.confidence is None else f"{caption.confidence:.0%} sure"


def with_sureness(caption: Caption) -> str:
    """Return a caption and what is to be doubted in it, as plain text for a label."""
    return f"{caption.text} (unsure: {DOUBT})" if UNSURE in caption.flags else caption.text


def sureness(caption: Caption) -> str:
    """Return HTML for under a caption: its level, with the reason on hover or to be hidden."""
    level = level_of(caption)
    if not level:
        return ""
    if level == "unsure":
        label = (
            f'<span class="tl-unsure" title="Unsure: {DOUBT}.">unsure'
            f'<span class="tl-sr">: {DOUBT}</span></span>'
        )
    else:
        hidden = '<span class="tl-sr"> of its words</span>'
        label = f'<span title="{CONFIDENCE_HELP}">{level}{hidden}</span>'
    return f'<span class="tl-sure">{label}</span>'
