"""Captions in files beside photos, and Google Takeout's JSON, which is no photo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precompute.sources.open import open_source
from precompute.sources.pairs import load_pairs
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo

LONG = "PXL_20240101_123456789.PORTRAIT-01.COVER-a-long-name"


@pytest.fixture
def takeout(tmp_path) -> Path:
    """An album as Google Takeout has written them since 2016, in all the ways it names files."""

    def told(name: str, title: str, description: str = "") -> None:
        content = {"title": title, "description": description, "photoTakenTime": {"timestamp": "1"}}
        content |= {"url": "https://photos.google.com/photo/secret", "geoData": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    names = ("a.png", "b.png", "b(1).png", "c&d.png", "e.png", "e-edited.png", f"{LONG}.png")
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(noise_photo(seed))
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(20))
    told("a.png", "a.png", "a dog\non a beach")
    told("b.png.supplemental-metadata", "b.png", "two cats")
    told("b.png.supplemental-metadata(1)", "b.png", "a boat")
    told("c_d.png.suppl", "c&d.png", "a car")
    told("e.png.supplemental-me", "e.png", "a tree \ud83d")
    told(LONG[:46], f"{LONG}.jpg", "a bus")
    told("film.mp4", "film.mp4", "a film")
    album = {"title": "Summer", "description": "our album", "access": "protected", "date": {}}
    (tmp_path / "metadata.json").write_text(json.dumps(album))
    (tmp_path / "Metadaten.json").write_text(json.dumps({"albumData": {"title": "x"}}))
    return tmp_path


def read(source: Path, **options) -> dict[str, tuple[str, ...]]:
    rows = open_source(SourceOptions(str(source), **options)).read(0)
    return {row.file_name: row.references for row in rows}


def test_google_takeout_s_files_are_no_photos_and_their_descriptions_are_captions(takeout):
    assert read(takeout) == {
        "a.png": ("a dog on a beach",),
        "b.png": ("two cats",),
        "b(1).png": ("a boat",),
        "c&d.png": ("a car",),
        "e.png": ("a tree",),
        "e-edited.png": ("a tree",),
        f"{LONG}.png": ("a bus",),
        "film.mp4": ("a film",),
    }
    (remark,) = open_source(SourceOptions(str(takeout))).remarks
    assert remark == (f"Photos with a caption in a file beside them, such as {LONG[:46]}.json: 8.")
    pairs = load_pairs(str(takeout)).readable()
    assert dict(zip((p.file_name for p in pairs.photos), pairs.captions, strict=True))[
        "b(1).png"
    ] == ("a boat",)


def test_an_album_without_descriptions_is_a_plain_folder(takeout):
    for path in takeout.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"description": ""}))
    source = open_source(SourceOptions(str(takeout)))
    assert (source.kind, source.remarks, source.columns.references) == ("folder", [], None)
    assert not any(row.file_name.endswith(".json") for row in source.read(0))


def test_a_caption_beside_each_photo(tmp_path):
    """As img2dataset and those who train image models keep them."""
    for seed, name in enumerate(("00000/0.png", "00000/1.png", "alone.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(noise_photo(seed))
    (tmp_path / "00000" / "0.txt").write_bytes(b"\xef\xbb\xbfa dog\r\n")
    (tmp_path / "00000" / "0.json").write_text('{"caption": "a dog", "key": "0", "url": "x"}')
    (tmp_path / "00000" / "1.json").write_text('{"caption": null, "key": "1"}')
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("nothing of a photo")
    found = read(tmp_path)
    assert found == {
        "00000/0.png": ("a dog",),
        "00000/1.png": (),
        "00000_stats.json": (),
        "alone.png": (),
        "notes.txt": (),
    }


def test_a_table_goes_before_files_beside_photos(tmp_path):
    (tmp_path / "a.png").write_bytes(noise_photo(1))
    (tmp_path / "a.txt").write_text("by hand")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,of the table\n")
    assert read(tmp_path) == {"a.png": ("of the table",)}
    (remark,) = open_source(SourceOptions(str(tmp_path))).remarks
    assert remark == "a.txt and its like are not read as captions: metadata.csv is."


@pytest.mark.parametrize(
    "content", [b"{", b"[" * 100_000, b"[1]", b"\xff\xfe", b"", b"7" * 2_000_000]
)
def test_json_that_tells_nothing_is_left_to_be_named(content, tmp_path):
    (tmp_path / "a.png").write_bytes(noise_photo(1))
    (tmp_path / "a.png.json").write_bytes(content)
    assert read(tmp_path) == {"a.png": (), "a.png.json": ()}
