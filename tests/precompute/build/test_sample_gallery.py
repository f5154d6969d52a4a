from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import app
from core.config import Settings
from core.errors import SourceError
from core.files import sha256_of
from core.gallery.copies import Copies
from core.gallery.figures.metrics_file import METRICS_FILE
from core.gallery.layout import THUMBNAILS_FOLDER
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES
from core.records import LENSES, SAMPLE_NAME
from precompute.build import sample_gallery as subject
from precompute.build.sample_gallery import SampleGallery, packaged_photos, stage
from precompute.build.shards.shard import Shard
from precompute.build.workspace import Workspace
from precompute.evaluate.written_queries.written import written_sha256
from tests.core.measured import planted_metrics
from tests.planted_app import (
    drawn,
    image_id,
    planted_models,
    planted_profile,
    write_planted_gallery,
)


def test_every_listed_photo_is_an_image_of_an_installed_package():
    photos = packaged_photos()
    assert len(photos) >= 40
    assert len({photo.file_name for photo in photos}) == len(photos)
    for photo in photos:
        path = photo.find()
        assert path is not None, photo
        with Image.open(path) as image:
            assert min(image.size) >= 200, photo.name
        assert photo.license and photo.source_url.startswith("http"), photo.name


def test_every_photo_is_described_by_five_different_sentences_and_by_nouns():
    said: dict[str, str] = {}
    for photo in packaged_photos():
        assert len(photo.captions) == 5, photo.name
        for caption in photo.captions:
            assert re.fullmatch(r"[A-Z][^.]+\.", caption), caption
            assert 7 <= len(caption.split()) <= 15, caption
            assert said.setdefault(caption, photo.name) == photo.name
        text = " ".join(photo.captions).lower()
        assert any(re.search(rf"\b{noun}\b", text) for noun in photo.nouns), photo.name


def test_no_two_photos_are_nearly_the_same():
    """Compared as difference hashes of 16 x 16; unrelated photos differ in about half of 256."""
    seen = {}
    for photo in packaged_photos():
        with Image.open(photo.find()) as image:
            small = image.convert("L").resize((17, 16))
        rows = [small.crop((0, y, 17, y + 1)).tobytes() for y in range(16)]
        bits = [row[x] < row[x + 1] for row in rows for x in range(16)]
        for other, theirs in seen.items():
            differing = sum(a != b for a, b in zip(bits, theirs, strict=True))
            assert differing > 40, (photo.name, other, differing)
        seen[photo.name] = bits


def test_staged_photos_keep_their_bytes_licence_source_and_captions(tmp_path):
    photos = packaged_photos()[:5]
    folder = stage(photos, tmp_path / "staged")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row, photo in zip(rows, photos, strict=True):
        assert sha256_of(folder / row["file_name"]) == sha256_of(photo.find())
        assert (row["license"], row["source_url"]) == (photo.license, photo.source_url)
        assert row["captions"] == list(photo.captions)
    licences = {row["file_name"]: row["license"] for row in rows}
    assert licences["pagoda.jpg"] == "CC BY 2.0"
    assert licences["lion.jpg"] == "Apache-2.0 (of the package gradio)"


def test_staging_again_leaves_nothing_of_the_last_time(tmp_path):
    first, *others = packaged_photos()[:3]
    stage([first, *others], tmp_path / "staged")
    folder = stage([first], tmp_path / "staged")
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.jsonl", first.file_name]


def _planted(tmp_path):
    """A sample gallery whose folder in the cache holds a planted one."""
    profile = dataclasses.replace(planted_profile(tmp_path), name="mini")
    sample = SampleGallery(tmp_path / "cache", profile, 3)
    sample.folder.parent.mkdir(parents=True)
    write_planted_gallery(sample.folder, profile)
    return sample, profile


def test_photos_are_shown_as_they_come_and_with_their_captions_as_soon_as_these_are_there(tmp_path):
    sample, profile = _planted(tmp_path)
    record = Gallery.open(sample.folder, profile).record(image_id(0))
    workspace = Workspace(sample.folder.resolve())
    with workspace.locked():
        workspace.begin({"of": "a test"})
        for row in range(2):
            Copies(drawn(row)).write(workspace.copies, image_id(row))
        (workspace.copies / THUMBNAILS_FOLDER / "00" / f"{'0' * 16}.webp").parent.mkdir(
            exist_ok=True
        )
        (workspace.copies / THUMBNAILS_FOLDER / "00" / f"{'0' * 16}.webp").touch()  # being written
        sample.follow(workspace)
        assert (sample.done, dict(sample.shown)) == (2, {image_id(0): "", image_id(1): ""})
        vectors = {lens: np.ones((1, 4), np.float32) for lens in LENSES}
        workspace.write_shard(0, Shard(rows=1, records=[record]), vectors)
        sample.follow(workspace)
        assert sample.shown[image_id(0)] == record.caption and not sample.shown[image_id(1)]
    shutil.rmtree(workspace.root)  # as at the end of a build
    sample.follow(workspace)
    assert sample.shown[image_id(0)] == record.caption
    assert sample.thumbnail(image_id(0)) == drawn(0) and sample.thumbnail("f" * 16) is None


def test_a_cached_gallery_serves_until_it_is_damaged_or_the_models_change(tmp_path):
    sample, profile = _planted(tmp_path)
    assert sample.unusable is None
    assert SampleGallery(tmp_path / "absent", profile, 3).unusable == "first start"
    retrained = dataclasses.replace(
        profile, clip=dataclasses.replace(profile.clip, source=profile.sentence.source)
    )
    sample.profile = retrained
    assert sample.unusable == "the models have changed"
    sample.profile = profile
    (sample.folder / "data-00000-of-00001.arrow").write_bytes(b"")
    assert "is not the file that was built" in sample.unusable


def test_a_cached_gallery_is_not_built_again(tmp_path, monkeypatch):
    sample, _ = _planted(tmp_path)
    monkeypatch.setattr(subject.sys, "executable", "/bin/false")
    sample.build()


def test_a_measured_gallery_that_cannot_serve_is_awaited(tmp_path):
    sample, profile = _planted(tmp_path)
    _write_figures(sample, written_sha256(SAMPLE_NAME))
    settings = Settings(cache_dir=tmp_path / "cache", sample_photos=3)
    models = planted_models(profile)
    shelf = app.open_shelf(settings, models)
    assert shelf.entries and shelf.awaited is None
    (sample.folder / "data-00000-of-00001.arrow").write_bytes(b"")
    shelf = app.open_shelf(settings, models)
    assert not shelf.entries and shelf.awaited is not None


def _write_figures(sample, sha256):
    metrics = planted_metrics(sample.folder)
    metrics = metrics.model_copy(
        update={"provenance": metrics.provenance.model_copy(update={"written_sha256": sha256})}
    )
    (sample.folder / METRICS_FILE).write_text(metrics.to_json(), encoding="utf-8")


def test_figures_that_lack_a_query_of_today_are_measured_anew(tmp_path):
    """It opens as it is; what is missing comes while it is served."""
    sample, profile = _planted(tmp_path)
    settings = Settings(cache_dir=tmp_path / "cache", sample_photos=3)
    for stale in ("", "0" * 64):
        _write_figures(sample, stale)
        shelf = app.open_shelf(settings, planted_models(profile))
        assert shelf.entries and shelf.awaited is not None
    for damaged in ("{}", "", "[1"):
        (sample.folder / METRICS_FILE).write_text(damaged)
        assert not sample.measured
    _write_figures(sample, written_sha256(SAMPLE_NAME))
    assert sample.measured


def test_another_choice_of_photos_is_another_gallery(tmp_path):
    folders = {SampleGallery(tmp_path, PROFILES["mini"], limit).folder for limit in (None, 3, 4)}
    assert len(folders) == 3


def test_a_build_that_fails_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(subject.sys, "executable", "/bin/false")
    with pytest.raises(SourceError, match="could not be built"):
        SampleGallery(tmp_path, PROFILES["mini"], 2).build()


def test_no_photos_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "packaged_photos", lambda: ())
    with pytest.raises(SourceError, match="no installed package holds photos"):
        SampleGallery(tmp_path, PROFILES["mini"])
