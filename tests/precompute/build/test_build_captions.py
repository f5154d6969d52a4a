"""Captions that a source brings: which are kept, which are searched, and what is reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from core.gallery.reader import Gallery
from precompute.build.shards.shard import Duplicate, Shard
from tests.precompute.build.builds import MODELS, build, litter, options, photos, rows
from tests.precompute.conftest import noise_photo


def test_references_licence_and_source_are_carried(tiny, tmp_path):
    source = photos(tmp_path / "in", 3)
    lines = [
        {"file_name": "000.png", "captions": ["a b", " c  d "], "license": "CC", "source_url": "u"},
        {"file_name": "001.png", "captions": [], "license": None},
        {"file_name": "gone.png", "captions": ["x"]},
    ]
    (source / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    result = build(options(source, tmp_path / "out", tiny))
    stored = rows(tmp_path / "out")
    assert [row["references"] for row in stored] == [["a b", "c d"], [], []]
    assert [row["license"] for row in stored] == ["CC", None, None]
    assert [row["source_url"] for row in stored] == ["u", None, None]
    assert [s.file_name for s in result.skipped] == ["gone.png"]
    assert "does not exist" in result.skipped[0].reason
    manifest = Gallery.open(tmp_path / "out", tiny).manifest
    assert (manifest.source.kind, manifest.source.id) == ("imagefolder", "in")
    assert manifest.source.caption_column == "captions"


def test_given_captions_are_used_and_no_captioner_is_loaded(tiny, tmp_path):
    source = photos(tmp_path / "in", 3)
    (source / "metadata.csv").write_text(
        'file_name,captions,text\n000.png,"[""a red boat"", ""a ship""]",t0\n'
        "001.png,a dog,t1\n002.png,,t2\n"
    )
    no_captioner = replace(tiny, captioner=replace(tiny.captioner, source="path:/nowhere"))
    build(options(source, tmp_path / "out", no_captioner, captions_from="captions"))
    stored = rows(tmp_path / "out")
    assert [row["caption"] for row in stored] == ["a red boat", "a dog", ""]
    assert [row["caption_flags"] for row in stored] == [[], [], ["empty"]]
    # A caption that is searched is no reference too.
    assert [row["references"] for row in stored] == [["a ship"], [], []]
    manifest = Gallery.open(tmp_path / "out", no_captioner).manifest
    assert manifest.captioner is None
    assert manifest.caption_origin == "column:captions"
    build(
        options(
            source,
            tmp_path / "out2",
            no_captioner,
            captions_from="captions",
            caption_column="text",
        )
    )
    assert [row["references"] for row in rows(tmp_path / "out2")] == [["t0"], ["t1"], ["t2"]]


def one_row_a_caption(path: Path, pictures: int, captions: int) -> Path:
    """A parquet file that holds each picture once for each of its captions."""
    cells = [
        {
            "image": {"bytes": noise_photo(i), "path": f"{i}.png"},
            "caption": f"caption {j} of picture {i}",
        }
        for j in range(captions)
        for i in range(pictures)
    ]
    pq.write_table(pa.Table.from_pylist(cells), path)
    return path


def test_one_row_a_caption_is_one_picture_with_all_its_captions(tiny, tmp_path):
    source = one_row_a_caption(tmp_path / "rows.parquet", pictures=4, captions=3)
    result = build(options(source, tmp_path / "out", tiny, shard_size=2))
    assert [row["references"] for row in rows(tmp_path / "out")] == [
        [f"caption {j} of picture {i}" for j in range(3)] for i in range(4)
    ]
    assert (result.images, result.merged_rows, result.duplicates) == (4, 8, ())
    assert Gallery.open(tmp_path / "out", tiny).manifest.counts.duplicates == 0
    build(options(source, tmp_path / "given", tiny, captions_from="caption"))
    for i, row in enumerate(rows(tmp_path / "given")):
        assert row["caption"] == f"caption 0 of picture {i}"
        assert row["references"] == [f"caption {j} of picture {i}" for j in (1, 2)]


def test_the_first_caption_with_words_is_given_wherever_it_stands(tiny, tmp_path):
    """Of rows that are one picture the first may be blank, and lie in a shard that is done."""
    texts = {0: ["", None, "a dog", "two dogs"], 1: ["a boat", "", "ships", None], 2: [" "] * 4}
    cells = [
        {"image": {"bytes": noise_photo(i), "path": f"{i}.png"}, "caption": texts[i][j]}
        for j in range(4)
        for i in texts
    ]
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(cells), source)
    build(options(source, tmp_path / "out", tiny, captions_from="caption", shard_size=2))
    stored = rows(tmp_path / "out")
    assert [row["caption"] for row in stored] == ["a dog", "a boat", ""]
    assert [row["caption_flags"] for row in stored] == [[], [], ["empty"]]
    assert [row["references"] for row in stored] == [["two dogs"], ["ships"], []]
    embeddings = Gallery.open(tmp_path / "out", tiny).embeddings("captions")
    expected = MODELS[tiny].sentence.encode_text(["a dog", "a boat", ""])
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)

    files = photos(tmp_path / "files", 1)
    shutil.copy(files / "000.png", files / "copy.png")
    (files / "metadata.csv").write_text("file_name,text\n000.png,\ncopy.png,a dog\n")
    build(options(files, tmp_path / "merged", tiny, captions_from="text"))
    assert [row["caption"] for row in rows(tmp_path / "merged")] == ["a dog"]


def test_what_a_duplicate_brings_outlives_a_stop():
    shard = Shard(rows=1, duplicates=[Duplicate("b.png", "a.png", "0" * 16, ("x", "y"), "x", True)])
    assert Shard.from_json(json.loads(json.dumps(shard.to_json()))) == shard


def test_the_captions_of_a_duplicate_file_are_kept(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    shutil.copy(source / "000.png", source / "copy.png")
    lines = [{"file_name": name, "text": f"of {name}"} for name in ("000.png", "copy.png")]
    (source / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    result = build(options(source, tmp_path / "out", tiny))
    assert [row["references"] for row in rows(tmp_path / "out")] == [
        ["of 000.png", "of copy.png"],
        [],
    ]
    assert (len(result.duplicates), result.merged_rows) == (1, 0)


def test_a_column_that_was_named_and_gave_no_caption_is_told(tiny, tmp_path):
    cells = [{"bytes": noise_photo(i), "path": f"{i}.png"} for i in range(2)]
    blank = pa.table({"image": cells, "alt": ["", None], "text": ["a dog", " "]})
    source = tmp_path / "blank.parquet"
    pq.write_table(blank, source)
    with pytest.raises(SourceError, match=r"No caption came out of the column 'alt'.* 2 pictures"):
        build(options(source, tmp_path / "out", tiny, captions_from="alt"))
    assert not (tmp_path / "out").exists()
    assert litter(tmp_path) == []
    said: list[str] = []
    build(options(source, tmp_path / "some", tiny, captions_from="text"), say=said.append)
    assert "The column 'text': 1 of 2 pictures have no caption in it." in said
    build(options(source, tmp_path / "none", tiny, caption_column="alt"), say=said.append)
    assert "The column 'alt' gave no caption at all." in said


def test_half_an_emoji_ends_no_build(tiny, tmp_path):
    source = photos(tmp_path / "in", 1)
    (source / "metadata.jsonl").write_text(
        '{"file_name": "000.png", "text": "so cute \\ud83d", "license": "x\\udc00"}\n'
        '{"file_name": "gone\\ud83d.png", "text": "x"}\n'
    )
    result = build(options(source, tmp_path / "out", tiny, captions_from="text"))
    (row,) = rows(tmp_path / "out")
    assert (row["caption"], row["license"]) == ("so cute", "x")
    assert [item.file_name for item in result.skipped] == ["gone\N{REPLACEMENT CHARACTER}.png"]
