"""A build on real and on awkward files: what is stored, what is left out, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import GalleryError, GalleryExistsError, ModelNotFoundError, SourceError
from core.gallery.reader import Gallery
from core.images.decode import DecodeLimits, decode
from core.models.profiles import Models, Profile
from precompute.build import pipeline
from precompute.build.pipeline import BuildOptions, BuildResult
from precompute.build.workspace import Duplicate, Shard
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo

LIMITS = DecodeLimits(50_000_000, 100_000_000)


_MODELS: dict[Profile, Models] = {}


def build(options: BuildOptions, say=lambda _: None) -> BuildResult | None:
    """Build with models that stay in memory from test to test."""
    models = _MODELS.setdefault(options.profile, Models(options.profile, device="cpu"))
    return pipeline.build(options, models=models, say=say)


def options(source: Path, out: Path, profile, **changes) -> BuildOptions:
    names = SourceOptions.__dataclass_fields__
    of_source = {name: changes.pop(name) for name in list(changes) if name in names}
    return BuildOptions(
        source=SourceOptions(str(source), **of_source),
        out=out,
        profile=profile,
        progress=False,
        **{"batch_size": 3, "shard_size": 5, **changes},
    )


def rows(gallery: Path) -> list[dict]:
    return pq.read_table(gallery / "records.parquet").to_pylist()


def photos(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (folder / f"{i:03d}.png").write_bytes(noise_photo(i))
    return folder


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_mixed_folder(mixed, tiny, tmp_path):
    out = tmp_path / "galleries" / "holiday"
    result = build(options(mixed, out, tiny))
    stored = rows(out)
    assert [row["file_name"] for row in stored] == [
        "in/copy of 0.png",
        "in/deep/naïve ☂.jpg",
        "moving.gif",
        "photo 1.png",
        "photo 2.png",
        "photo 3.png",
        "photo 4.png",
        "photo 5.png",
        "really a png.txt",
    ]
    reasons = {item.file_name: item.reason for item in result.skipped}
    assert set(reasons) == {
        "bad-empty.jpg",
        "bad-text.jpg",
        "bad-cut.png",
        "bad-drawing.svg",
        "bad-huge.png",
        "bad-link.jpg",
        "notes.md",
    }
    assert reasons["bad-empty.jpg"] == "is empty (0 bytes)"
    assert reasons["bad-cut.png"] == "is truncated"
    assert "SVG" in reasons["bad-drawing.svg"]
    assert "50,000 x 50,000" in reasons["bad-huge.png"]
    assert "cannot be read" in reasons["bad-link.jpg"]
    assert [(d.file_name, d.same_as) for d in result.duplicates] == [
        ("photo 0.png", "in/copy of 0.png"),
        ("zz copy of 3.jpg", "photo 3.png"),
    ]
    assert [(n.file_name, n.note) for n in result.notes] == [
        ("moving.gif", "shows its first frame of 3")
    ]

    report = json.loads((out / "build_report.json").read_text())
    assert report["counts"] == {"images": 9, "duplicates": 2, "skipped": 7}
    assert {item["file_name"]: item["reason"] for item in report["skipped"]} == reasons
    assert report["notes"] == [{"file_name": "moving.gif", "note": "shows its first frame of 3"}]
    assert litter(out.parent) == []


def test_what_is_stored_is_what_the_models_say(mixed, tiny, tmp_path):
    out = tmp_path / "g"
    build(options(mixed, out, tiny, batch_size=4))
    gallery = Gallery.open(out, tiny)
    models = _MODELS[tiny]
    assert len(gallery) == 9
    for record in gallery.records:
        decoded = decode(mixed / record.file_name, record.file_name, LIMITS)
        assert record.sha256 == decoded.sha256
        assert (record.width, record.height) == (decoded.width, decoded.height)
        assert gallery.thumbnail(record.id).is_file()
        caption = models.captioner.caption([decoded.image])[0]
        assert (record.caption, record.caption_flags) == (caption.text, caption.flags)
        expected = models.clip.encode_image([decoded.image])[0]
        assert np.abs(gallery.embedding("clip", record.id) - expected).max() < 1e-4
        expected = models.sentence.encode_text([caption.text])[0]
        assert np.abs(gallery.embedding("captions", record.id) - expected).max() < 1e-4
    assert len({record.caption for record in gallery.records}) > 1
    assert gallery.manifest.captioner.name == "tiny-captioner"
    assert gallery.manifest.caption_origin == "generated"
    assert gallery.manifest.counts.skipped == 7


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
    expected = _MODELS[tiny].sentence.encode_text(["a dog", "a boat", ""])
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


def test_batches_and_shards_do_not_change_what_is_stored(tiny, tmp_path):
    source = photos(tmp_path / "in", 11)
    build(options(source, tmp_path / "a", tiny, batch_size=2, shard_size=4))
    build(options(source, tmp_path / "b", tiny, batch_size=50, shard_size=500))
    assert [r["id"] for r in rows(tmp_path / "a")] == [r["id"] for r in rows(tmp_path / "b")]
    assert np.allclose(
        np.load(tmp_path / "a" / "clip.npy"), np.load(tmp_path / "b" / "clip.npy"), atol=1e-5
    )


def test_limit_and_an_exact_number_of_shards(tiny, tmp_path):
    source = photos(tmp_path / "in", 12)
    result = build(options(source, tmp_path / "g", tiny, limit=10, shard_size=5))
    assert result.images == 10
    assert rows(tmp_path / "g")[-1]["file_name"] == "009.png"


def test_a_folder_without_a_usable_picture_leaves_nothing(tiny, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    with pytest.raises(SourceError, match="holds no image"):
        build(options(source, tmp_path / "new" / "g", tiny))
    for i in range(7):
        (source / f"{i}.jpg").write_text("text")
    with pytest.raises(SourceError, match=r"holds no usable image: 7 files .* 0\.jpg, is not an"):
        build(options(source, tmp_path / "new" / "g", tiny))
    assert not (tmp_path / "new").exists()


def test_a_missing_model_leaves_nothing(tiny, tmp_path):
    source = photos(tmp_path / "in", 3)
    broken = replace(tiny, clip=replace(tiny.clip, source="path:/nowhere"))
    with pytest.raises(ModelNotFoundError):
        build(options(source, tmp_path / "new" / "g", broken))
    assert not (tmp_path / "new").exists()
    empty = tmp_path / "no weights"
    empty.mkdir()
    broken = replace(tiny, clip=replace(tiny.clip, source=f"path:{empty}"))
    with pytest.raises(ModelNotFoundError):
        build(options(source, tmp_path / "new" / "g", broken))
    assert not (tmp_path / "new").exists()


def test_an_existing_gallery_is_replaced_only_on_request_and_only_by_a_whole_one(tiny, tmp_path):
    out = tmp_path / "g"
    build(options(photos(tmp_path / "old", 3), out, tiny))
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    new = photos(tmp_path / "new", 4, first=10)
    with pytest.raises(GalleryExistsError, match="--overwrite"):
        build(options(new, out, tiny))
    broken = replace(tiny, captioner=replace(tiny.captioner, source=f"path:{new}"))
    with pytest.raises(ModelNotFoundError):
        build(options(new, out, broken, overwrite=True))
    for name, content in before.items():
        assert (out / name).read_bytes() == content, name
    build(options(new, out, tiny, overwrite=True))
    assert [row["file_name"] for row in rows(out)] == [f"{i:03d}.png" for i in range(10, 14)]
    assert len(Gallery.open(out, tiny)) == 4
    assert litter(tmp_path) == []


def test_what_is_not_a_gallery_is_never_replaced(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    (home / "manifest.json").write_text("{}")
    with pytest.raises(GalleryError, match="not a gallery's"):
        build(options(source, home, tiny, overwrite=True))
    assert (home / "thesis.tex").read_text() == "years of work"
    with pytest.raises(GalleryError, match="is a file"):
        build(options(source, home / "thesis.tex", tiny, overwrite=True))
    empty = tmp_path / "empty"
    empty.mkdir()
    build(options(source, empty, tiny))
    (empty / "manifest.json").unlink()
    build(options(source, empty, tiny, overwrite=True))
    assert len(Gallery.open(empty, tiny)) == 2


@pytest.mark.parametrize(
    "names",
    [
        [".git"],
        [".bashrc", ".ssh"],
        ["manifest.json"],
        ["manifest.json", ".git"],
        ["thumbnails", ".DS_Store"],
    ],
)
def test_a_folder_without_a_gallery_s_own_files_is_never_replaced(names, tiny, tmp_path):
    out = tmp_path / "out"
    for name in names:
        (out / name).mkdir(parents=True)
        (out / name / "precious").write_text("years of work")
    with pytest.raises(GalleryError, match=f"not a gallery's, such as {min(names)}"):
        build(options(photos(tmp_path / "in", 2), out, tiny, overwrite=True))
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_a_gallery_with_files_of_its_owner_is_not_replaced(tiny, tmp_path):
    source, out = photos(tmp_path / "in", 2), tmp_path / "g"
    build(options(source, out, tiny))
    (out / ".DS_Store").write_bytes(b"left by a system")
    build(options(source, out, tiny, overwrite=True))
    (out / ".git").mkdir()
    with pytest.raises(GalleryError, match="such as .git"):
        build(options(source, out, tiny, overwrite=True))
    assert (out / ".git").is_dir()


def test_places_that_can_be_no_gallery(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    (tmp_path / "loop").symlink_to("loop")
    for out in (Path("/"), Path("/proc/g"), tmp_path / "loop" / "g", Path("~no such user/g")):
        with pytest.raises(GalleryError, match="cannot be"):
            build(options(source, out, tiny, overwrite=True))


@pytest.mark.parametrize("where", ["in", "in/g", "."])
def test_source_and_gallery_lie_apart(tiny, tmp_path, where):
    source = photos(tmp_path / "in", 2)
    with pytest.raises(GalleryError, match="inside each other"):
        build(options(source, tmp_path / where, tiny, overwrite=True))
    assert sorted(p.name for p in source.iterdir()) == ["000.png", "001.png"]


def test_two_builds_of_one_gallery_do_not_meet(tiny, tmp_path):
    from precompute.build.workspace import Workspace

    source = photos(tmp_path / "in", 2)
    out = tmp_path / "g"
    with (
        Workspace(out).locked(),
        pytest.raises(GalleryError, match="Another build of .* is running"),
    ):
        build(options(source, out, tiny))
    assert build(options(source, out, tiny)).images == 2


def test_a_place_that_cannot_be_written(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    (tmp_path / "file").write_text("not a folder")
    for out in (tmp_path / "file" / "g", tmp_path / ("n" * 300)):
        with pytest.raises(GalleryError, match="cannot be written"):
            build(options(source, out.resolve(), tiny))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in"]


def test_only_what_failed_in_writing_is_said_to_be_that(tiny, tmp_path):
    """An error without a number, as image and model libraries raise them, says nothing of disks."""

    class Torn:
        spec = tiny.captioner

        def caption(self, images):
            raise OSError("the weights end early")

    source = photos(tmp_path / "in", 2)
    with pytest.raises(OSError, match="the weights end early"):
        pipeline.build(
            options(source, tmp_path / "g", tiny),
            models=Models(tiny, device="cpu", captioner=Torn()),
        )


def test_names_that_are_not_utf8_or_not_a_name(tiny, tmp_path):
    source = photos(tmp_path / "in", 1)
    (source / "caf\udce9.png").write_bytes(noise_photo(5))
    out = tmp_path / ".odd name. "
    build(options(source, out, tiny))
    assert [row["file_name"] for row in rows(out)] == ["000.png", "caf\ufffd.png"]
    assert Gallery.open(out, tiny).manifest.name == "odd name"
    captioned = photos(tmp_path / "in\udcff", 1)
    pq.write_table(
        pa.table({"file_name": ["000.png"], "text": ["a dog"]}), tmp_path / "metadata.parquet"
    )
    (tmp_path / "metadata.parquet").rename(captioned / "metadata.parquet")
    out = tmp_path / "out\udcff"
    build(options(captioned, out, tiny))
    assert [record.references for record in Gallery.open(out, tiny).records] == [("a dog",)]


def test_another_plan_starts_over_and_says_so(tiny, tmp_path):
    source = photos(tmp_path / "in", 7)
    out = tmp_path / "g"
    _interrupt_after_one_shard(source, out, tiny)
    said: list[str] = []
    result = build(options(source, out, tiny, batch_size=2), say=said.append)
    assert result.resumed_rows == 0
    assert said == ["The unfinished build of g had another batch size: starting over."]
    _interrupt_after_one_shard(source, tmp_path / "h", tiny)
    (source / "004.png").write_bytes(noise_photo(99))
    said.clear()
    build(options(source, tmp_path / "h", tiny), say=said.append)
    assert said == ["The unfinished build of h had another content: starting over."]


def test_bad_input_does_not_cost_an_unfinished_build(tiny, tmp_path):
    source = photos(tmp_path / "in", 7)
    out = tmp_path / "g"
    _interrupt_after_one_shard(source, out, tiny)
    with pytest.raises(SourceError):
        build(options(tmp_path / "tpyo", out, tiny))
    with pytest.raises(SourceError):
        build(options(source, out, tiny, caption_column="nope"))
    said: list[str] = []
    assert build(options(source, out, tiny), say=said.append).resumed_rows == 5
    assert said == ["Going on after 5 rows of an interrupted build."]


def test_a_damaged_shard_is_done_again(tiny, tmp_path):
    source = photos(tmp_path / "in", 12)
    build(options(source, tmp_path / "whole", tiny))
    out = tmp_path / "g"
    _interrupt_after_one_shard(source, out, tiny)
    shards = tmp_path / ".g.building" / "shards"
    array = next(shards.glob("*.clip.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"!")
    assert build(options(source, out, tiny)).resumed_rows == 0
    for name in ("records.parquet", "captions.npy", "clip.npy"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class _InterruptError(Exception):
    pass


def _interrupt_after_one_shard(source: Path, out: Path, profile) -> None:
    """Run a build whose disk cannot take a second shard."""
    from precompute.build import workspace

    def write_first_only(self, number, shard, embeddings):
        if number:
            raise _InterruptError
        genuine(self, number, shard, embeddings)

    genuine = workspace.Workspace.write_shard
    workspace.Workspace.write_shard = write_first_only
    try:
        with pytest.raises(_InterruptError):
            build(options(source, out, profile))
    finally:
        workspace.Workspace.write_shard = genuine


def test_coco_photos_are_built_and_found(shared_data, tiny, tmp_path):
    """Human captions and the real sentence encoder: the right picture must come first."""
    from core.search.service import SearchService

    source = shared_data / "coco_cc"
    out = tmp_path / "coco"
    result = build(options(source, out, tiny, captions_from="captions", batch_size=32))
    assert result.images == 111
    assert not result.skipped
    assert all(row["license"].startswith("CC-BY") for row in rows(out))
    gallery = Gallery.open(out, tiny)
    search = SearchService(gallery, Models(tiny, device="cpu"))
    found = 0
    for record in list(gallery.records)[:40]:
        hits = search.by_text(record.references[0], k=5, lens="captions").hits
        found += record.id in {hit.id for hit in hits}
    assert found >= 32
    shutil.rmtree(out)
