from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from core.errors import SourceError
from core.files import sha256_of
from core.models.profiles import PROFILES
from precompute.build import sample_gallery as subject
from tests.planted_app import planted_profile, write_planted_gallery


def test_every_named_photo_of_an_installed_package_is_an_image():
    found = list(subject.installed_photos())
    assert len(found) >= 6
    packages = {photo.package for photo, _ in found}
    assert len(found) == sum(photo.package in packages for photo in subject.PHOTOS)
    for _, path in found:
        with Image.open(path) as image:
            assert min(image.size) >= 200, path.name


def test_staged_photos_keep_their_bytes_licence_and_source(tmp_path):
    photos = list(subject.installed_photos())
    folder = subject.stage_photos(photos, tmp_path / "staged")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["file_name"] for row in rows}) == len(photos)
    for row, (photo, path) in zip(rows, photos, strict=True):
        assert sha256_of(folder / row["file_name"]) == sha256_of(path)
        assert (row["license"], row["source_url"]) == (photo.licence, photo.source_url)
    (china,) = [row for row in rows if row["file_name"] == "china.jpg"]
    assert china["license"] == "CC BY 2.0"


def test_staging_again_leaves_nothing_of_the_last_time(tmp_path):
    photos = list(subject.installed_photos())
    subject.stage_photos(photos, tmp_path / "staged")
    folder = subject.stage_photos(photos[:1], tmp_path / "staged")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["metadata.jsonl", photos[0][1].name]
    )


def test_a_cached_gallery_serves_until_it_is_damaged_or_the_models_change(tmp_path):
    profile = planted_profile(tmp_path)
    folder = write_planted_gallery(tmp_path / "cached", profile)
    assert subject.why_unusable(folder, profile) is None
    assert subject.why_unusable(tmp_path / "absent", profile) == "first start"
    retrained = dataclasses.replace(
        profile, clip=dataclasses.replace(profile.clip, source=profile.sentence.source)
    )
    assert subject.why_unusable(folder, retrained) == "the models have changed"
    (folder / "records.parquet").write_bytes(b"")
    assert "is not the file that was built" in subject.why_unusable(folder, profile)


def test_a_cached_gallery_is_returned_without_a_build(tmp_path, monkeypatch):
    profile = dataclasses.replace(planted_profile(tmp_path), name="mini")
    digest = subject.digest_of(list(subject.installed_photos()))
    out = tmp_path / "galleries" / f"mini-{digest}" / "sample-photos"
    write_planted_gallery(out, profile)
    monkeypatch.setattr(subject.sys, "executable", "/bin/false")
    assert subject.default_gallery(tmp_path, profile) == out


def test_a_build_that_fails_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(subject.sys, "executable", "/bin/false")
    with pytest.raises(SourceError, match="could not be built"):
        subject.default_gallery(tmp_path, PROFILES["mini"])


def test_no_photos_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "PHOTOS", ())
    with pytest.raises(SourceError, match="no installed package holds photos"):
        subject.default_gallery(tmp_path, PROFILES["mini"])
