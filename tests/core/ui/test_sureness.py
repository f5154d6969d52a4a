"""How sure a caption is, in words for the eye and for a screen reader."""

from __future__ import annotations

import re

from core.records import UNSURE, Caption
from core.ui.sureness import sureness, with_sureness


def spoken(markup: str) -> str:
    return re.sub(r"<[^>]*>", "", markup)


def seen(markup: str) -> str:
    return spoken(re.sub(r'<span class="tl-sr">[^<]*</span>', "", markup))


def test_the_confidence_is_shown():
    markup = sureness(Caption("a dog", (), 0.714))
    assert seen(markup) == "71% sure"
    assert spoken(markup) == "71% sure of its words"
    assert "tl-unsure" not in markup


def test_unsure_is_a_word_with_its_reason():
    markup = sureness(Caption("a dog", ("retried", UNSURE), 0.9))
    assert seen(markup) == "unsurecaptioner 90%"
    assert spoken(markup) == (
        "unsure: the CLIP lens finds that this caption hardly fits its picture. "
        "captioner 90% sure of its words"
    )
    assert 'title="Unsure: the CLIP lens' in markup


def test_unsure_without_a_confidence_and_nothing_without_either():
    assert seen(sureness(Caption("a dog", (UNSURE,)))) == "unsure"
    assert sureness(Caption("a dog", ("corrected",))) == ""


def test_a_label_says_the_doubt_too():
    assert with_sureness(Caption("a dog", (), 0.2)) == "a dog"
    assert with_sureness(Caption("a dog", (UNSURE,))) == (
        "a dog (unsure: the CLIP lens finds that this caption hardly fits its picture)"
    )
