"""Captions however a source keeps them: names of columns, numbered ones, lists, halves of signs."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from precompute.sources.caption_columns import captions_of, find_captions
from precompute.sources.open import open_source
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo


def rows_of(source: Path, **changes):
    return list(open_source(SourceOptions(str(source), **changes)).read(0))


def folder_with(folder: Path, metadata: list[dict], name: str = "metadata.jsonl") -> Path:
    folder.mkdir(parents=True)
    for row in metadata:
        (folder / row["file_name"]).write_bytes(noise_photo(1))
    (folder / name).write_text("\n".join(json.dumps(row) for row in metadata))
    return folder


def parquet_with(path: Path, columns: dict[str, list]) -> Path:
    count = len(next(iter(columns.values())))
    cells = [{"bytes": noise_photo(i), "path": f"{i}.png"} for i in range(count)]
    pq.write_table(pa.table({"image": cells, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ('["a dog", "a brown dog"]', ("a dog", "a brown dog")),
        (str(["a dog", "it's a dog"]), ("a dog", "it's a dog")),
        (str(np.array(["a dog", "it's", "a dog, brown"])), ("a dog", "it's", "a dog, brown")),
        (str([{"raw": "a dog"}, {"raw": "a cat"}]), ("a dog", "a cat")),
        ("['a dog', None, nan]", ("a dog",)),
        ("[]", ()),
        ('{"raw": "a dog"}', ("a dog",)),
        (str({"sentences": ["a dog", "a cat"]}), ("a dog", "a cat")),
        ("{laughs}", ("{laughs}",)),
        ("[laughs] a dog", ("[laughs] a dog",)),
        ("[laughs]", ("[laughs]",)),
        ("[1]", ("[1]",)),
        ("('a dog', 'a cat')", ("a dog", "a cat")),
        ("('a dog')", ("('a dog')",)),
        ("(a dog)", ("(a dog)",)),
        ("(None)", ("(None)",)),
        (np.array(["a", "b"]), ("a", "b")),
        ({"raw": ["a", "b"], "tokens": [["a"], ["b"]]}, ("a", "b")),
        (float("nan"), ()),
        ("nan", ()),
        ([None, float("nan"), "a"], ("a",)),
        ("so cute \ud83d", ("so cute",)),
        ("\u200b", ()),
        ("caf" + "e\u0301", ("caf\xe9",)),
        ("two\r\nlines\x00", ("two lines",)),
    ],
)
def test_captions_in_the_shapes_that_tables_give_them(value, captions):
    assert captions_of(value) == captions


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["caption_0", "caption_10", "caption_2"], ("caption_0", "caption_2", "caption_10")),
        (["caption1", "Caption2"], ("caption1", "Caption2")),
        (["TEXT", "URL"], ("TEXT",)),
        (["text_1", "captions"], ("captions",)),
        (["raw", "sentids", "split", "filename"], ("raw",)),
        (["title"], None),
    ],
)
def test_columns_are_found_by_usual_names_and_numbers(names, columns):
    found = find_captions(names)
    assert (found and found.columns) == columns


def test_numbered_columns_give_their_captions_in_order(tmp_path):
    columns = {f"caption_{j}": [f"caption {j} of {i}" for i in range(2)] for j in range(5)}
    source = parquet_with(tmp_path / "numbered.parquet", columns)
    five = tuple(f"caption {j} of 1" for j in range(5))
    assert rows_of(source)[1].references == five
    row = rows_of(source, captions_from="caption")[1]
    assert (row.given_caption, row.references) == (five[0], five[1:])
    row = rows_of(source, captions_from="caption_1")[1]
    assert (row.given_caption, row.references) == (five[1], (five[0], *five[2:]))
    assert rows_of(source, caption_column="caption_3")[1].references == (five[3],)


def test_a_choice_of_texts_is_asked_for_and_can_be_made(tmp_path):
    texts = [{"en": [f"dog {i}", f"brown dog {i}"], "de": [f"Hund {i}"]} for i in range(2)]
    source = parquet_with(tmp_path / "languages.parquet", {"captions": texts})
    for asked in ({}, {"captions_from": "captions"}):
        with pytest.raises(SourceError, match=r"'captions' holds .*en, de.* such as captions\.en"):
            rows_of(source, **asked)
    row = rows_of(source, captions_from="captions.en")[1]
    assert (row.given_caption, row.references) == ("dog 1", ("brown dog 1",))
    assert rows_of(source, caption_column="captions.de")[1].references == ("Hund 1",)
    with pytest.raises(SourceError, match="no column 'titles.en'"):
        rows_of(source, caption_column="titles.en")
    metadata = [{"file_name": "a.png", "captions": {"en": "a dog", "de": "ein Hund"}}]
    with pytest.raises(SourceError, match="Choose one, such as captions.en"):
        rows_of(folder_with(tmp_path / "folder", metadata))


def test_a_dataset_with_captions_by_unusual_names_is_told(tmp_path):
    source = parquet_with(tmp_path / "odd.parquet", {"caption_en": ["a"], "caption_de": ["b"]})
    (remark,) = open_source(SourceOptions(str(source))).remarks
    assert "there are: image, caption_en, caption_de. Name it with --caption-column" in remark
    blank = parquet_with(tmp_path / "null.parquet", {"caption": pa.nulls(1), "text": ["a"]})
    assert rows_of(blank)[0].references == ("a",)
    assert rows_of(blank, caption_column="caption")[0].references == ()


def test_one_caption_that_is_missing_refuses_nothing(tmp_path):
    metadata = [
        {"file_name": "a.png", "text": float("nan")},
        {"file_name": "b.png", "text": "a dog"},
        {"file_name": "c.png", "text": 2024},
    ]
    rows = rows_of(folder_with(tmp_path / "folder", metadata))
    assert [row.references for row in rows] == [(), ("a dog",), ("2024",)]


def test_numbers_are_not_taken_for_captions(tmp_path):
    metadata = [{"file_name": "a.png", "caption": 7, "text": "a dog"}]
    folder = folder_with(tmp_path / "folder", metadata)
    assert rows_of(folder)[0].references == ("a dog",)
    table = parquet_with(tmp_path / "numbers.parquet", {"caption": [1, 2], "text": ["a", "b"]})
    assert rows_of(table)[1].references == ("b",)
    for source in (folder, table):
        with pytest.raises(SourceError, match="'caption' holds int, not text"):
            rows_of(source, caption_column="caption")


def test_half_an_emoji_ends_nothing(tmp_path):
    folder = tmp_path / "halves"
    folder.mkdir()
    (folder / "a.png").write_bytes(noise_photo(1))
    lines = [
        {"file_name": "a.png", "text": "so cute \ud83d", "license": "CC \udc00", "source_url": "u"},
        {"file_name": "b\ud83d.png", "text": "gone"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    first, second = rows_of(folder)
    assert (first.references, first.license) == (("so cute",), "CC")
    assert (second.file_name, second.problem) == (
        "b\N{REPLACEMENT CHARACTER}.png",
        "is named in the metadata but does not exist",
    )
    for row in (first, second):
        assert json.dumps([row.file_name, row.license], ensure_ascii=False).encode("utf-8")


def test_lists_and_numpy_arrays_of_a_saved_dataset(tmp_path):
    table = pd.DataFrame(
        {
            "image": [{"bytes": noise_photo(i), "path": None} for i in range(2)],
            "sentences": [np.array(["a", "b"]), np.array(["c"])],
            "license": ["CC0", None],
        }
    )
    datasets.Dataset.from_pandas(table).save_to_disk(tmp_path / "saved")
    rows = rows_of(tmp_path / "saved")
    assert [(row.references, row.license) for row in rows] == [(("a", "b"), "CC0"), (("c",), None)]
