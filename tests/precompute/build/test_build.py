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

from core.errors import ModelNotFoundError, SourceError
from core.gallery.reader import Gallery
from core.images.decode import DecodeLimits, decode
from core.models.profiles import Models
from precompute.build import pipeline
from tests.precompute.build.builds import MODELS, build, litter, options, photos, rows
from tests.precompute.conftest import noise_photo

LIMITS = DecodeLimits(50_000_000, 100_000_000)


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


def test_models_that_it_loaded_are_unloaded_when_all_is_described(tiny, tmp_path, monkeypatch):
    made = []

    def remembered(*args, **options) -> Models:
        made.append(Models(*args, **options))
        return made[-1]

    monkeypatch.setattr(pipeline, "Models", remembered)
    pipeline.build(options(photos(tmp_path / "photos", 2), tmp_path / "g", tiny, device="cpu"))
    assert [models.unload_idle(0) for models in made] == [[]]
    given = Models(tiny, device="cpu")
    again = options(tmp_path / "photos", tmp_path / "h", tiny, device="cpu")
    pipeline.build(again, models=given)
    assert tiny.captioner.name in given.unload_idle(0)


def test_what_is_stored_is_what_the_models_say(mixed, tiny, tmp_path):
    out = tmp_path / "g"
    build(options(mixed, out, tiny, batch_size=4))
    gallery = Gallery.open(out, tiny)
    models = MODELS[tiny]
    assert len(gallery) == 9
    for record in gallery.records:
        decoded = decode(mixed / record.file_name, record.file_name, LIMITS)
        assert record.sha256 == decoded.sha256
        assert (record.width, record.height) == (decoded.width, decoded.height)
        assert gallery.read_thumbnail(record.id)[8:12] == b"WEBP"
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
    for name in ("data-00000-of-00001.arrow", "captions.npy", "clip.npy"):
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
