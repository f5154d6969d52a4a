"""Tables of other makers beside photos: their formats, and the names by which they mean files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from precompute.sources.open import open_source
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo


def opened(source: Path, **changes):
    return open_source(SourceOptions(str(source), **changes))


def captions(source: Path, **changes) -> dict[str, tuple[str, ...]]:
    return {row.file_name: row.references for row in opened(source, **changes).read(0)}


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    for name in ("images/000.jpg", "images/001.jpg"):
        (folder / name).write_bytes(noise_photo(int(name[-5])))
    return folder


EXPECTED = {"images/000.jpg": ("a dog", "a brown dog"), "images/001.jpg": ("a cat, asleep",)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "metadata.csv",
            "sep=;\r\nfile_name;captions;;\r\nimages/000.jpg;['a dog', 'a brown dog'];;\r\n"
            "images/001.jpg;a cat, asleep;;\r\n",
        ),
        (
            "metadata.csv",
            'file_name,captions\nimages/000.jpg,"[\\"a dog\\", \\"a brown dog\\"]"\n'
            'images/001.jpg,"a cat, asleep"\n',
        ),
        (
            "metadata.csv",
            "\ufefffile_name,caption\r\nimages/000.jpg,a dog\r\nimages/000.jpg,a brown dog\r\n"
            'images/001.jpg,"a cat, asleep"\r\n',
        ),
        (
            "metadata.csv",
            "image;caption\nimages/000.jpg;a dog\nimages/000.jpg;a brown dog\n"
            "images/001.jpg;a cat, asleep\n",
        ),
        (
            "metadata.csv",
            "image_name| comment_number| comment\n000.jpg| 0| a dog\n000.jpg| 1| a brown dog\n"
            "001.jpg| 0| a cat, asleep\n",
        ),
        (
            "metadata.tsv",
            "filename\tcaption_0\tcaption_1\nimages/000.jpg\ta dog\ta brown dog\n"
            "images/001.jpg\ta cat, asleep\t\n",
        ),
        (
            "metadata.jsonl",
            '{"image_id": 0, "sentences": [{"raw": "a dog"}, {"raw": "a brown dog"}]}\r\n'
            '{"image_id": 1, "sentences": [{"raw": "a cat, asleep"}]}\r\n',
        ),
        (
            "metadata.csv",
            'raw,sentids,filename\n"[""a dog"", ""a brown dog""]",[0],000.jpg\n'
            '"[""a cat, asleep""]",[1],001.jpg\n',
        ),
        (
            "metadata.csv",
            "file_name,caption\nimages/000.jpg,a dog\nimages\\000.jpg,a brown dog\n"
            "./images/001.jpg,a cat, asleep\n",
        ),
    ],
    ids=[
        "excel",
        "backslash",
        "bom-crlf",
        "semicolon",
        "flickr30k",
        "tsv",
        "numbers",
        "karpathy",
        "unquoted",
    ],
)
def test_tables_of_other_makers(photos, name, text):
    (photos / name).write_bytes(text.encode("utf-8"))
    assert captions(photos) == EXPECTED


def test_utf_16_as_spreadsheets_write_it_and_parquet(photos):
    text = "file_name\tcaption\nimages/000.jpg\ta café\n"
    (photos / "metadata.csv").write_bytes(text.encode("utf-16"))
    assert captions(photos)["images/000.jpg"] == ("a café",)
    (photos / "metadata.csv").unlink()
    rows = [{"file_name": "images/000.jpg", "caption": text} for text in ("a", "b")]
    pq.write_table(pa.Table.from_pylist(rows), photos / "metadata.parquet")
    assert captions(photos) == {"images/000.jpg": ("a", "b"), "images/001.jpg": ()}


def test_other_encodings_are_refused_with_the_remedy(photos):
    (photos / "metadata.csv").write_bytes("file_name,caption\n000.jpg,café\n".encode("cp1252"))
    with pytest.raises(SourceError, match="not UTF-8 text .* Save it as UTF-8"):
        opened(photos)


def test_a_caption_cut_by_its_own_comma_is_told(photos):
    lines = ["file_name,caption,license", "images/000.jpg,a dog, running,CC0"]
    (photos / "metadata.csv").write_text("\n".join(lines))
    source = opened(photos)
    (remark,) = source.remarks
    assert "line 2" in remark
    assert "must stand in quotes" in remark


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_a_quote_that_nobody_closed_swallows_no_line(photos, suffix, delimiter):
    rows = [("file_name", "caption"), ("images/000.jpg", '"a dog'), ("images/001.jpg", '"a cat"')]
    (photos / f"metadata.{suffix}").write_text("\n".join(delimiter.join(row) for row in rows))
    assert captions(photos) == {"images/000.jpg": ('"a dog',), "images/001.jpg": ("a cat",)}
    (remark,) = opened(photos).remarks
    assert "not closed, in line 2" in remark


@pytest.mark.parametrize("name", ["results.csv", "metadata.json", "annotations.json", "tokens.txt"])
def test_a_table_of_captions_by_another_name_is_told(photos, name):
    (photos / name).write_text("file_name,caption\nimages/000.jpg,a dog\n")
    (remark,) = opened(photos).remarks
    assert remark == f"{name} is not read as captions: name a table of them metadata.csv."
    (photos / name).rename(photos / "metadata.csv")
    assert opened(photos).remarks == []


def test_a_path_from_the_root_is_taken_where_it_leads_into_the_source(photos):
    rows = [(photos / "images" / "000.jpg", "a"), (photos.parent / "001.jpg", "b")]
    lines = [json.dumps({"file_name": str(path), "text": text}) for path, text in rows]
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    found = {row.file_name: row for row in opened(photos).read(0)}
    assert found["images/000.jpg"].references == ("a",)
    assert "outside" in found[str(photos.parent / "001.jpg")].problem


def test_the_column_of_names_can_be_named(photos):
    (photos / "metadata.csv").write_text("id,photo file,text\n7,images/000.jpg,a dog\n")
    assert captions(photos, image_column="photo file")["images/000.jpg"] == ("a dog",)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_the_other_unicode_form_and_letter_case(form, tmp_path):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(form, "Café 1.JPG")
    (tmp_path / name).write_bytes(noise_photo(1))
    row = {"file_name": unicodedata.normalize(other, "café 1.jpg"), "text": "a cup"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert captions(tmp_path) == {name: ("a cup",)}


def test_a_name_that_fits_two_files_or_another_folder_s_is_not_guessed(photos):
    (photos / "more").mkdir()
    (photos / "more" / "000.jpg").write_bytes(noise_photo(5))
    lines = [
        {"file_name": "000.jpg", "text": "which?"},
        {"file_name": "absent/001.jpg", "text": "not that one"},
        {"file_name": "001.jpg", "text": "the only one"},
    ]
    (photos / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    rows = {row.file_name: row for row in opened(photos).read(0)}
    assert rows["images/001.jpg"].references == ("the only one",)
    assert rows["images/000.jpg"].references == rows["more/000.jpg"].references == ()
    for absent in ("000.jpg", "absent/001.jpg"):
        assert "does not exist" in rows[absent].problem


def test_numbers_padded_as_coco_pads_them(tmp_path):
    (tmp_path / "000000000139.jpg").write_bytes(noise_photo(1))
    (tmp_path / "metadata.csv").write_text("image_id,caption\n139,a room\n139.0,a hall\n")
    assert captions(tmp_path) == {"000000000139.jpg": ("a room", "a hall")}


def test_metadata_above_the_splits(tmp_path):
    lines = []
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "000.jpg").write_bytes(noise_photo(len(lines)))
        lines.append({"file_name": f"{split}/000.jpg", "text": f"of {split}"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert captions(tmp_path, split="test") == {"000.jpg": ("of test",)}
    assert captions(tmp_path)["train/000.jpg"] == ("of train",)
    inside = {"file_name": "000.jpg", "text": "said inside"}
    (tmp_path / "test" / "metadata.jsonl").write_text(json.dumps(inside))
    assert captions(tmp_path, split="test") == {"000.jpg": ("of test", "said inside")}


def test_rows_without_a_name_and_columns_without_captions_are_told(photos):
    lines = [{"file_name": "000.jpg", "title": "x"}, {"title": "y"}]
    (photos / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    source = opened(photos)
    assert any(
        "they name no file in the column 'file_name': 1" in remark for remark in source.remarks
    )
    assert any("there are: file_name, title. Name it" in remark for remark in source.remarks)


def test_columns_of_one_name_give_all_their_captions(photos):
    (photos / "metadata.csv").write_text("file_name,text,text\n000.jpg,x,y\n001.jpg,z\n")
    assert captions(photos) == {"images/000.jpg": ("x", "y"), "images/001.jpg": ("z",)}


def test_a_column_of_splits_says_which_folder_where_none_is_asked_for(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(noise_photo(len(split)))
    (tmp_path / "metadata.csv").write_text("file_name,split,text\na.png,train,x\na.png,test,y\n")
    assert captions(tmp_path) == {"test/a.png": ("y",), "train/a.png": ("x",)}
