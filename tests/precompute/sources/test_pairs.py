"""Images with captions, however a source keeps them."""

from __future__ import annotations

import json
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import SourceError
from precompute.sources.pairs import load_pairs
from tests.precompute.finetune.clip.test_contrastive import COLOURS, imagefolder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return load_pairs(imagefolder(tmp_path_factory.mktemp("colours")))


def test_pairs_come_in_order_with_all_their_captions(pairs):
    assert len(pairs) == 12
    image, captions = pairs.image(7), pairs.captions[7]
    assert captions == ("a pink wall", "something painted pink")
    assert image.size == (55, 40)
    assert image.getpixel((5, 5)) == COLOURS["pink"]
    assert pairs.file_name(7) == "07-pink.png"


def test_the_same_rows_have_the_same_fingerprint_however_their_path_is_spelled(tmp_path):
    (tmp_path / "inner").mkdir()
    source = imagefolder(tmp_path / "photos")
    detour = str(tmp_path / "inner" / ".." / "photos")
    assert load_pairs(source).fingerprint == load_pairs(detour).fingerprint
    other = imagefolder(tmp_path / "other", captions=["a wall"])
    assert load_pairs(source).fingerprint != load_pairs(other).fingerprint


def test_a_limit_keeps_the_first_rows(tmp_path):
    source = imagefolder(tmp_path)
    assert [c[0] for c in load_pairs(source, limit=2).captions] == ["a red wall", "a green wall"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "test"}, "no split 'test': no such sub-folder"),
        ({"caption_column": "title"}, "no column 'title'; it has: file_name, captions"),
        ({"image_column": "photo"}, "are the column 'image', not 'photo'"),
    ],
)
def test_a_missing_split_or_column_is_named(tmp_path, options, sentence):
    with pytest.raises(SourceError, match=sentence):
        load_pairs(imagefolder(tmp_path), **options)


def test_a_source_without_captions_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no captions"):
        load_pairs(imagefolder(tmp_path, captions=[" "]))


def test_photos_without_a_table_or_a_column_of_captions_say_what_is_missing(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match=r"no captions\. Put a metadata\.jsonl or metadata\.csv"):
        load_pairs(str(tmp_path))
    (tmp_path / "metadata.csv").write_text("file_name,title\na.png,x\n")
    with pytest.raises(
        SourceError, match=r"there are: file_name, title\. Name it with --caption-c"
    ):
        load_pairs(str(tmp_path))


def photos_listed(folder, names, lines):
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + number, 20), "red").save(folder / name)
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return str(folder)


def test_a_photo_called_train_is_only_a_photo(tmp_path):
    names = ["beach.png", "dog.png", "train.png"]
    lines = [{"file_name": name, "text": f"a {name[:-4]}"} for name in names]
    pairs = load_pairs(photos_listed(tmp_path / "set", names, lines))
    assert [pairs.file_name(row) for row in range(3)] == names
    assert pairs.captions == (("a beach",), ("a dog",), ("a train",))


def test_a_listed_photo_that_is_missing_is_named_and_left_out(tmp_path, caplog):
    lines = [{"file_name": f"{name}.png", "text": f"a {name}"} for name in ("one", "two", "three")]
    pairs = load_pairs(photos_listed(tmp_path / "gone", ["one.png", "three.png"], lines))
    assert [pairs.file_name(row) for row in range(len(pairs))] == ["one.png", "three.png"]
    assert "two.png is named in the metadata but does not exist" in caplog.text


def test_a_broken_photo_is_named_and_left_out_before_training(tmp_path, caplog):
    names = ["one.png", "two.png", "three.png"]
    lines = [{"file_name": name, "text": f"a {name}"} for name in names]
    pairs = load_pairs(photos_listed(tmp_path / "set", names, lines))
    assert pairs.readable() is pairs
    (tmp_path / "set" / "two.png").write_bytes(b"Dear diary")
    left = load_pairs(str(tmp_path / "set")).readable()
    assert [left.file_name(row) for row in range(len(left))] == ["one.png", "three.png"]
    assert "photos left out: 1. two.png" in caplog.text
    for name in names:
        (tmp_path / "set" / name).write_bytes(name.encode())
    with pytest.raises(SourceError, match="no usable image: the first, one.png"):
        load_pairs(str(tmp_path / "set")).readable()


def test_one_row_a_caption_is_one_image_however_it_is_kept(tmp_path):
    names = ["a.png", "b.png"]
    lines = [{"file_name": n, "text": f"{j} of {n}"} for j in range(3) for n in names]
    folder = photos_listed(tmp_path / "set", names, lines)
    shutil.copy(tmp_path / "set" / "a.png", tmp_path / "set" / "copy.png")
    with (tmp_path / "set" / "metadata.jsonl").open("a") as file:
        file.write('\n{"file_name": "copy.png", "text": "[\\"of its copy\\"]"}')
    of_a = ("0 of a.png", "1 of a.png", "2 of a.png", "of its copy")
    of_b = ("0 of b.png", "1 of b.png", "2 of b.png")
    assert load_pairs(folder).captions == (of_a, of_b)
    assert len(load_pairs(folder, limit=1)) == 1
    contents = {name: (tmp_path / "set" / name).read_bytes() for name in names}
    cells = [{"image": {"bytes": contents[n], "path": n}, "text": f"{j} of {n}"}
             for j in range(3) for n in names]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(cells), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(cells).save_to_disk(tmp_path / "saved")
    for source in ("rows.parquet", "saved"):
        pairs = load_pairs(str(tmp_path / source))
        assert pairs.captions == (of_a[:3], of_b)
        assert (pairs.image(1).size, pairs.file_name(1)) == ((21, 20), "b.png")


def test_splits_are_sub_folders_and_the_test_is_never_trained_on_unasked(tmp_path, caplog):
    names = ["train/a.png", "test/a.png"]
    lines = [{"file_name": name, "text": f"of {name}"} for name in names]
    folder = photos_listed(tmp_path / "set", names, lines)
    assert load_pairs(folder).captions == (("of train/a.png",),)
    assert "only train is read" in caplog.text
    pairs = load_pairs(folder, "test")
    assert (pairs.name, pairs.captions) == ("set:test", (("of test/a.png",),))
