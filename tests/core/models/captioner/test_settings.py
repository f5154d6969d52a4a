"""How a captioner is asked and searches, read from its file."""

from __future__ import annotations

import pytest

from core.errors import ModelError
from core.models.captioner.settings import DECODING_FILE, Decoding, read_decoding
from core.models.views import View


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
    path.write_text('{"decoding": {"image_views": [[0, 0, 1, 1], [0, 0, 0.8, 0.8]]}}')
    assert read_decoding(tmp_path).views == (View(), View(0, 0, 0.8, 0.8))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"decoding": {"beams": 3}}', "unknown settings: beams"),
        ('{"decoding": {"num_beams": 0}}', "0 beams"),
        ('{"decoding": {"num_beams": "three"}}', "cannot be read"),
        ('{"decoding": {"image_views": [[0, 0, 2, 1]]}}', "no list of 1 to 16 boxes"),
        ('{"decoding": {"image_views": []}}', "no list of 1 to 16 boxes"),
        ('{"decoding": {"image_views": 3}}', "cannot be read"),
        ('{"decoding": {"image_precision": "int4"}}', "fp32 or int8, not 'int4'"),
        ("{}", "cannot be read"),
        ("not json", "cannot be read"),
    ],
)
def test_read_decoding_says_what_is_wrong(tmp_path, content: str, sentence: str):
    (tmp_path / DECODING_FILE).write_text(content)
    with pytest.raises(ModelError, match=sentence):
        read_decoding(tmp_path)
