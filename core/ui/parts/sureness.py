"""How sure a caption is, in words: the captioner's own probability, and the CLIP lens's doubt."""

from __future__ import annotations

from core.records import UNSURE, Caption

DOUBT = "the CLIP lens finds that this caption hardly fits its picture"
CONFIDENCE_HELP = (
    "How sure the captioner was of the words it chose: their mean probability. It can be sure of "
    "words that are wrong."
)


def sure_of_its_words(caption: Caption) -> str:
    """Return the confidence in words: ``"71% sure"``; "" where it is unknown."""
    return "" if caption.confidence is None else f"{caption.confidence:.0%} sure"


def doubt_about(caption: Caption) -> str:
    """Return why a caption is called unsure; "" if it is not."""
    return DOUBT if UNSURE in caption.flags else ""


def with_sureness(caption: Caption) -> str:
    """Return a caption and what is to be doubted in it, as plain text for a label."""
    doubt = doubt_about(caption)
    return f"{caption.text} (unsure: {doubt})" if doubt else caption.text


def sureness(caption: Caption) -> str:
    """Return HTML for under a caption: a badge if it is unsure, and the confidence."""
    doubt, sure = doubt_about(caption), sure_of_its_words(caption)
    badge = (
        f'<span class="tl-unsure" title="Unsure: {DOUBT}.">unsure'
        f'<span class="tl-sr">: {DOUBT}. </span></span>'
        if doubt
        else ""
    )
    rest = " of its words"
    if doubt and sure:  # "unsure 90% sure" would contradict itself
        sure, rest = f"captioner {sure.removesuffix(' sure')}", " sure of its words"
    share = (
        f'<span title="{CONFIDENCE_HELP}">{sure}<span class="tl-sr">{rest}</span></span>'
        if sure
        else ""
    )
    return f'<span class="tl-sure">{badge}{share}</span>' if badge or share else ""
