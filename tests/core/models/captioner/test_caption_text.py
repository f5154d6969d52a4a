"""Cleaning captions and doubting them."""

from __future__ import annotations

import pytest

from core.models.captioner.caption_text import caption_flags, clean_caption

PROMPT = "A short image caption."


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a dog\n on  the grass ", "a dog on the grass"),
        (": - a dog.", "a dog."),
        ("a dog runs , ", "a dog runs"),
        ('"a dog (brown)"', "a dog (brown)"),
        ("5 dogs!", "5 dogs!"),
        (" .,;- ", ""),
    ],
)
def test_clean_caption(raw: str, clean: str):
    assert clean_caption(raw) == clean


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("a dog runs through the grass", ()),
        ("a man in a red shirt and a man in a blue shirt", ()),
        ("", ("empty",)),
        ("...", ("empty",)),
        ("a dog dog runs", ("repetition",)),
        ("the cat and the cat and a bird", ("repetition",)),
        ("a man in a red hat near a man in a red coat", ("repetition",)),
        ("A short image caption of a dog", ("prompt_echo",)),
        ("a short image caption. a short image caption.", ("prompt_echo", "repetition")),
    ],
)
def test_caption_flags(text: str, flags: tuple[str, ...]):
    assert caption_flags(text, PROMPT) == flags


def test_a_prompt_inside_a_longer_word_or_later_in_the_text_is_no_echo():
    assert caption_flags("a dog and a short image caption", PROMPT) == ()
    assert caption_flags("a dog", "") == ()
