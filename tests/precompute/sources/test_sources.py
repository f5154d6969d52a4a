"""Sources: which files or rows they yield, which column is what, and what they refuse."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from precompute.sources.caption_columns import captions_of
from precompute.sources.dataset.rows import DatasetSource
from precompute.sources.open import open_source
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo


def opened(source: Path | str, **changes):
    return open_source(SourceOptions(str(source), **changes))


def names(source, start=0) -> list[str]:
    return [row.file_name for row in source.read(start)]


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for name in ("z.png", "a.png", "b/c.png"):
        (folder / name).write_bytes(noise_photo(len(name)))
    return folder


class TestFolder:
    def test_a_file_takes_little_more_memory_than_its_name(self, tmp_path):
        for number in range(2000):
            (tmp_path / f"{number:06d}.jpg").touch()
        opened(tmp_path)  # what a first one imports
        tracemalloc.start()
        source = opened(tmp_path)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert source.total == 2000
        assert held / 2000 < 150

    def test_files_in_order_from_any_start_up_to_the_limit(self, photos):
        source = opened(photos)
        assert (source.kind, source.name, source.total) == ("folder", "photos", 3)
        assert names(source) == ["a.png", "b/c.png", "z.png"]
        assert names(source, 2) == ["z.png"]
        assert names(source, 3) == []
        assert names(opened(photos, limit=2)) == ["a.png", "b/c.png"]
        row = next(source.read(0))
        assert (row.references, row.given_caption, row.license) == ((), None, None)

    def test_metadata_in_sub_folders_and_a_byte_order_mark(self, photos):
        (photos / "b" / "metadata.jsonl").write_text(
            '\ufeff{"file_name": "c.png", "text": "t"}\n\n', encoding="utf-8"
        )
        source = opened(photos)
        assert source.kind == "imagefolder"
        assert [row.references for row in source.read(0)] == [(), ("t",), ()]
        assert source.columns.references.name == "text"

    def test_references_are_found_in_order_of_their_names(self, photos):
        row = {"file_name": "a.png", "text": "t", "caption": "c", "sentences": ["s"]}
        (photos / "metadata.jsonl").write_text(json.dumps(row))
        assert next(opened(photos).read(0)).references == ("c",)
        assert next(opened(photos, caption_column="sentences").read(0)).references == ("s",)
        given = next(opened(photos, captions_from="text").read(0))
        assert (given.given_caption, given.references) == ("t", ("c",))

    def test_splits_are_sub_folders(self, photos):
        assert names(opened(photos, split="b")) == ["c.png"]
        for split in ("train", "..", "../photos", ""):
            with pytest.raises(SourceError, match="no split"):
                opened(photos, split=split)

    def test_rows_that_lead_outside_are_not_followed(self, photos, tmp_path):
        (tmp_path / "private.png").write_bytes(noise_photo(1))
        lines = [
            {"file_name": "../private.png"},
            {"file_name": str(tmp_path / "private.png")},
            {"file_name": "b/../a.png", "text": "normalised"},
        ]
        (photos / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        rows = {row.file_name: row for row in opened(photos).read(0)}
        outside = [row for row in rows.values() if "outside" in row.problem]
        assert len(outside) == 2
        assert all(row.content is None for row in outside)
        assert rows["a.png"].references == ("normalised",)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ('{"file_name": "a.png"}\n{oops', "Line 2 of metadata.jsonl is not valid JSON"),
            ("[1]", "Line 1 of metadata.jsonl is not a JSON object"),
            (
                '{"text": "x"}',
                "has no column that names the images, such as file_name; it has: text",
            ),
            (b"\xff\xfe\x00", "metadata.jsonl cannot be read"),
        ],
    )
    def test_metadata_that_cannot_be_read(self, photos, content, sentence):
        content = content if isinstance(content, bytes) else content.encode()
        (photos / "metadata.jsonl").write_bytes(content)
        with pytest.raises(SourceError, match=sentence):
            opened(photos)

    def test_columns_that_do_not_exist(self, photos):
        with pytest.raises(SourceError, match="plain folder"):
            opened(photos, caption_column="captions")
        (photos / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x", "n": 1}')
        with pytest.raises(SourceError, match=r"no column 'titles'; it has: file_name, text, n\."):
            opened(photos, captions_from="titles")
        with pytest.raises(SourceError, match="are the column 'image'"):
            opened(photos, image_column="pixels")
        assert opened(photos, image_column="image").total == 3

    def test_the_fingerprint_follows_files_and_metadata(self, photos):
        first = opened(photos).fingerprint
        assert opened(photos).fingerprint == first
        (photos / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}')
        second = opened(photos).fingerprint
        (photos / "a.png").write_bytes(b"other")
        assert len({first, second, opened(photos).fingerprint}) == 3

    def test_what_is_no_source(self, photos, tmp_path):
        with pytest.raises(SourceError, match="There is no folder"):
            opened(tmp_path / "absent" / "deep")
        with pytest.raises(SourceError, match="There is no folder ~nobody-of-this-name/photos"):
            opened("~nobody-of-this-name/photos")
        with pytest.raises(SourceError, match="is a file"):
            opened(photos / "a.png")
        with pytest.raises(SourceError, match="--limit"):
            opened(photos, limit=0)
        (tmp_path / "empty" / ".git").mkdir(parents=True)
        with pytest.raises(SourceError, match="no file at all"):
            opened(tmp_path / "empty")


@pytest.fixture(scope="module")
def table() -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "number": list(range(5)),
            "picture": [{"bytes": noise_photo(i), "path": f"p{i}.png"} for i in range(5)],
            "sentences": [[{"raw": f"first {i}"}, {"raw": f"second {i}"}] for i in range(5)],
            "license": ["CC0"] * 5,
        },
        features=datasets.Features(
            {
                "number": datasets.Value("int64"),
                "picture": datasets.Image(),
                "sentences": [{"raw": datasets.Value("string")}],
                "license": datasets.Value("string"),
            }
        ),
    )


class TestDataset:
    def test_a_folder_of_parquet_files_with_splits(self, table, tmp_path):
        (tmp_path / "set" / "data").mkdir(parents=True)
        for split in ("train", "test"):
            table.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
        with pytest.raises(SourceError, match=r"several splits; choose by --split: train, test"):
            opened(tmp_path / "set")
        with pytest.raises(SourceError, match=r"no split 'dev'; it has: train, test"):
            opened(tmp_path / "set", split="dev")
        source = opened(tmp_path / "set", split="test", limit=4)
        assert (source.kind, source.name) == ("dataset", "set")
        assert names(source) == ["p0.png", "p1.png", "p2.png", "p3.png"]
        assert names(source, 3) == ["p3.png"]
        assert names(source, 4) == []
        row = next(source.read(1))
        assert row.content == noise_photo(1)
        assert row.references == ("first 1", "second 1")
        assert row.license == "CC0"
        assert source.columns.image == "picture"

    def test_a_saved_dataset(self, table, tmp_path):
        table.save_to_disk(tmp_path / "saved")
        source = opened(tmp_path / "saved", captions_from="sentences")
        assert source.total == 5
        row = next(source.read(4))
        assert row.content == noise_photo(4)
        assert (row.given_caption, row.references) == ("first 4", ("second 4",))
        datasets.DatasetDict({"a": table, "b": table}).save_to_disk(tmp_path / "both")
        assert opened(tmp_path / "both", split="b", limit=2).total == 2

    @pytest.mark.parametrize("kind", ["struct", "binary", "path"])
    def test_a_parquet_file_without_declared_images(self, kind, tmp_path):
        (tmp_path / "x.png").write_bytes(noise_photo(3))
        cell = {
            "struct": {"bytes": noise_photo(3), "path": None},
            "binary": noise_photo(3),
            "path": str(tmp_path / "x.png"),
        }[kind]
        pq.write_table(pa.table({"img": [cell], "text": ["hi"]}), tmp_path / "one.parquet")
        row = next(opened(tmp_path / "one.parquet").read(0))
        content = row.content.read_bytes() if isinstance(row.content, Path) else row.content
        assert content == noise_photo(3)
        assert row.references == ("hi",)
        assert row.file_name == ("x.png" if kind == "path" else "row-000000")

    def test_columns_that_do_not_fit(self, tmp_path):
        pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "one.parquet")
        with pytest.raises(SourceError, match=r"no column of images.*It has: a, b\."):
            opened(tmp_path / "one.parquet")
        with pytest.raises(SourceError, match="'a' holds no images"):
            opened(tmp_path / "one.parquet", image_column="a")
        with pytest.raises(SourceError, match="no column 'c'; it has: a, b"):
            opened(tmp_path / "one.parquet", image_column="c")

    def test_a_row_without_image_is_a_problem_of_that_row(self, tmp_path):
        cells = pa.array([None, {"bytes": noise_photo(1), "path": "dir/q.png"}])
        pq.write_table(pa.table({"image": cells}), tmp_path / "one.parquet")
        first, second = opened(tmp_path / "one.parquet").read(0)
        assert (first.content, first.problem) == (None, "has no image in its row")
        assert second.file_name == "q.png"

    def test_what_comes_from_elsewhere_names_no_file_of_this_machine(self, table, tmp_path):
        (tmp_path / "private.png").write_bytes(noise_photo(1))
        rows = datasets.Dataset.from_dict({"image": [str(tmp_path / "private.png")]})
        rows = rows.cast_column("image", datasets.Image())
        options = SourceOptions("owner/name")
        source = DatasetSource(rows, options, "n", "train", None, "", local_paths=False)
        row = next(source.read(0))
        assert row.content is None
        assert "not contained in the dataset" in row.problem

    def test_files_that_are_no_dataset(self, tmp_path):
        (tmp_path / "one.parquet").write_bytes(b"PAR1 not really")
        with pytest.raises(SourceError, match="could not be read"):
            opened(tmp_path / "one.parquet")
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "state.json").write_text("{}")
        with pytest.raises(SourceError):
            opened(tmp_path / "saved")
        (tmp_path / "dict").mkdir()
        for content in ("[1]", '{"splits": 1}', "7", "{"):
            (tmp_path / "dict" / "dataset_dict.json").write_text(content)
            with pytest.raises(SourceError, match="could not be read"):
                opened(tmp_path / "dict")


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        (" a\n b ", ("a b",)),
        ("", ()),
        (None, ()),
        (3, ()),
        (["a", None, " ", "b"], ("a", "b")),
        ([{"raw": "r", "tokens": ["r"]}, {"other": "x"}], ("r",)),
        ({"raw": ["a", "b"]}, ("a", "b")),
    ],
)
def test_captions_in_any_shape(value, captions):
    assert captions_of(value) == captions


@pytest.mark.parametrize("value", [7, 0.5, [1, 2]])
def test_captions_that_are_not_text_are_refused_by_the_column_s_name(photos, value):
    lines = [{"file_name": path.name, "size": value} for path in sorted(photos.glob("*.*"))]
    (photos / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(SourceError, match=r"column 'size' holds (int|float), not text"):
        list(opened(photos, caption_column="size").read(0))


@pytest.mark.parametrize("padding", ["", "=="])
@pytest.mark.parametrize("start", ["data:image/png;base64,", "data:;BASE64,", ""])
def test_pictures_written_as_base64(start, padding, tmp_path):
    photo = noise_photo(2)
    text = base64.encodebytes(photo).decode().rstrip("=\n") + padding
    pq.write_table(pa.table({"image": [start + text]}), tmp_path / "one.parquet")
    (row,) = opened(tmp_path / "one.parquet").read(0)
    assert (row.content, row.problem, row.file_name) == (photo, "", "row-000000")


def test_cells_that_are_neither_picture_nor_place(tmp_path):
    cells = ["data:image/png;base64,####", "x" * 5000, "a\0b"]
    pq.write_table(pa.table({"image": cells}), tmp_path / "one.parquet")
    rows = list(opened(tmp_path / "one.parquet").read(0))
    assert [row.content for row in rows] == [None] * 3
    assert rows[0].problem == "is a data: URI that cannot be read"
    assert rows[1].problem == rows[2].problem == "is named by what is neither a path nor an address"
