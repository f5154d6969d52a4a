"""Cleaning captions, doubting them, and reading how to decode."""

from __future__ import annotations

import pytest

from core.errors import ModelError
from core.models.captioner.settings import (
    DECODING_FILE,
    Decoding,
    caption_flags,
    clean_caption,
    read_decoding,
)

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


def test_retry_differs_in_prompt_and_search():
    first = Decoding(repetition_penalty=1.0)
    second = first.for_retry()
    assert second.prompt == first.retry_prompt != first.prompt
    assert second.num_beams > first.num_beams
    assert second.no_repeat_ngram_size == 2


def test_read_decoding(tmp_path):
    assert read_decoding(None) == read_decoding(tmp_path) == Decoding()
    path = tmp_path / DECODING_FILE
    path.write_text('{"decoding": {"num_beams": 3, "max_new_tokens": 24}}')
    assert read_decoding(tmp_path) == Decoding(num_beams=3, max_new_tokens=24)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"decoding": {"beams": 3}}', "unknown settings: beams"),
        ('{"decoding": {"num_beams": 0}}', "0 beams"),
        ('{"decoding": {"num_beams": "three"}}', "cannot be read"),
        ("{}", "cannot be read"),
        ("not json", "cannot be read"),
    ],
)
def test_read_decoding_says_what_is_wrong(tmp_path, content: str, sentence: str):
    (tmp_path / DECODING_FILE).write_text(content)
    with pytest.raises(ModelError, match=sentence):
        read_decoding(tmp_path)
