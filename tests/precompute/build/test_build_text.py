"""Text in pictures: read at build where asked for, kept with the record, named in the manifest."""

from __future__ import annotations

import json

import pytest

from core.gallery.reader import Gallery
from tests.core.models.test_text_reader import sign
from tests.precompute.build.builds import build, options, photos


def test_text_in_pictures_is_read_where_asked_for_and_survives_the_gallery(tiny, tmp_path):
    pytest.importorskip("rapidocr", reason="requirements-ocr.txt is not installed")
    source = photos(tmp_path / "in", 1)
    sign("Harbour 27", size=(800, 600)).save(source / "sign.png")
    build(options(source, tmp_path / "with", tiny, read_text=True))
    build(options(source, tmp_path / "without", tiny))
    read, plain = (Gallery.open(tmp_path / name, tiny) for name in ("with", "without"))
    assert [record.text_in_picture for record in read.records] == ["", "Harbour 27"]
    assert read.records[0].text_confidence is None
    assert read.records[1].text_confidence > 0.9
    assert read.manifest.text_reader is not None and read.manifest.text_reader.revision
    assert json.loads((tmp_path / "with" / "build_report.json").read_text())["with_text"] == 1
    assert plain.manifest.text_reader is None
    assert not any(record.text_in_picture for record in plain.records)
    # Looking for text changes nothing else.
    for lens in ("captions", "clip"):
        assert (read.embeddings(lens) == plain.embeddings(lens)).all()
