"""The reader of text in pictures, on drawn signs; and what is left out of what it reads."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from core.errors import MissingDependencyError
from core.models import text_reader
from core.models.text_reader import Line, TextInPicture, TextReader, joined


def sign(*lines: str, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A photo's worth of grey with a white board on it."""
    image = Image.new("RGB", size, (90, 110, 90))
    pen = ImageDraw.Draw(image)
    pen.rectangle((60, 60, size[0] - 60, size[1] - 60), fill="white")
    for row, line in enumerate(lines):
        pen.text((100, 100 + 90 * row), line, "black", ImageFont.load_default(64))
    return image


def test_a_sign_is_read_line_by_line_and_a_picture_without_letters_is_not():
    pytest.importorskip("rapidocr", reason="requirements-ocr.txt is not installed")
    reader = TextReader()
    found = reader.read(sign("Harbour 27", "Visitors welcome"))
    assert found.text == "Harbour 27 Visitors welcome"
    assert found.confidence is not None and found.confidence > 0.9
    assert reader.read(Image.new("RGB", (320, 240), "teal")) == TextInPicture()


def test_unsure_lines_and_single_characters_are_left_out_of_the_text():
    lines = [Line("STOP", 0.99), Line("L", 0.99), Line("品青", 0.3), Line("++", 0.99)]
    assert joined([*lines, Line("No entry", 0.9)]) == TextInPicture("STOP No entry", 0.93)
    assert joined(lines[1:]) == TextInPicture()


def test_without_its_packages_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(text_reader.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install -r requirements-ocr\.txt$"):
        TextReader()
