"""A gallery that is missing, half-written, tampered with or of other models is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.errors import (
    CorruptGalleryError,
    GalleryNotFoundError,
    IncompleteGalleryError,
    ManifestMismatchError,
)
from core.gallery.layout import REQUIRED_FILES
from core.gallery.manifest import Manifest, ModelRef, thumbnails_digest
from core.gallery.reader import Gallery
from core.models.weights import revision_of
from tests.core.planted import records


def edit(planted, **changes):
    path = planted.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(planted, kind, *sentences):
    """Open the gallery and return the error, having checked its words and its remedy."""
    with pytest.raises(kind) as caught:
        Gallery.open(planted.folder, planted.profile)
    message = str(caught.value)
    for sentence in sentences:
        assert sentence in message
    assert f"python -m precompute build SOURCE --out {planted.folder}" in message
    assert caught.value.path == planted.folder
    assert type(caught.value) is kind
    return caught.value


def test_a_written_manifest_reads_back_equal(planted):
    assert Manifest.read(planted.folder) == planted.manifest
    planted.manifest.verify(planted.folder, planted.profile)
    assert planted.manifest.counts.images == 60
    assert planted.manifest.sentence == ModelRef(
        name="sentence",
        source=f"path:{Path(planted.profile.sentence.source).name}",  # no folder of the operator
        revision=revision_of(planted.profile.sentence),
        dim=8,
        licence="MIT",
    )


def test_a_folder_that_does_not_exist(planted):
    shutil.rmtree(planted.folder)
    refused(planted, GalleryNotFoundError, "There is no gallery folder")


def test_a_folder_without_manifest(planted):
    (planted.folder / "manifest.json").unlink()
    refused(planted, IncompleteGalleryError, "has no manifest.json", "did not finish")


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file(planted, name):
    (planted.folder / name).unlink()
    refused(planted, CorruptGalleryError, f"planted is damaged: {name} is missing")


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_changed_byte(planted, name):
    path = planted.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(planted, CorruptGalleryError, f"{name} is not the file that was built")


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_truncated_file(planted, name):
    path = planted.folder / name
    path.write_bytes(path.read_bytes()[:-1])
    refused(planted, CorruptGalleryError, f"{name} is not the file that was built")


def test_a_missing_thumbnail(planted):
    next((planted.folder / "thumbnails").rglob("*.webp")).unlink()
    refused(planted, CorruptGalleryError, "thumbnails are not", "(59 there, 60 built)")


def test_a_thumbnail_changed_swapped_or_added(planted):
    first, second = sorted((planted.folder / "thumbnails").rglob("*.webp"))[:2]
    before = first.read_bytes()
    first.write_bytes(before + b"\0")
    refused(planted, CorruptGalleryError, "the thumbnails are not the ones that were built")
    first.write_bytes(second.read_bytes())
    second.write_bytes(before)
    refused(planted, CorruptGalleryError, "the thumbnails are not the ones that were built")
    second.write_bytes(first.read_bytes())
    first.write_bytes(before)
    Gallery.open(planted.folder, planted.profile)
    (first.parent / "other.webp").write_bytes(before)
    refused(planted, CorruptGalleryError, "(61 there, 60 built)")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "manifest.json is not JSON"),
        (b'{"format": 1, "name": "pla', "manifest.json is not JSON"),
        (b"\xff\xfe\x00", "manifest.json is not JSON"),
        (b"[" * 100_000, "manifest.json is not JSON"),
        (b"[1, 2]", "manifest.json is not a JSON object"),
        (b"{}", "manifest.json is not valid at name: Field required"),
    ],
)
def test_a_manifest_that_is_none(planted, content, sentence):
    (planted.folder / "manifest.json").write_bytes(content)
    refused(planted, CorruptGalleryError, sentence)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"counts": {"images": -1}}, "counts.images"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"thumbnails_sha256": "abc"}, "thumbnails_sha256"),
        ({"caption_origin": "somewhere"}, "caption_origin"),
        ({"format": "1.0"}, "format"),
        ({"name": "../elsewhere"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": ""}, "name"),
        ({"files": {"clip.npy": "not a hash"}}, "files.clip.npy"),
    ],
)
def test_a_manifest_with_an_unfit_field(planted, changes, field):
    edit(planted, **changes)
    refused(planted, CorruptGalleryError, f"manifest.json is not valid at {field}")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "thumbnails/../../outside.txt",
        "/etc/hostname",
        "..",
        ".",
        "",
        "a\\..\\b",
        "C:outside.txt",
        "./records.parquet",
        "a//b",
        "a\0b",
        "manifest.json",
    ],
)
def test_a_file_name_that_leads_out_of_the_folder(planted, name):
    (planted.folder.parent / "outside.txt").write_text("secret")
    edit(planted, files={**planted.manifest.files, name: "0" * 64})
    refused(planted, CorruptGalleryError, "manifest.json is not valid at files")


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_manifest_that_does_not_cover_a_file(planted, name):
    edit(planted, files={k: v for k, v in planted.manifest.files.items() if k != name})
    refused(planted, CorruptGalleryError, f"manifest.json does not name {name}")


def test_another_format_version(planted):
    edit(planted, format=2, files={"new layout": 7})
    error = refused(planted, ManifestMismatchError, "format is 2, but 1 is needed")
    assert (error.field, error.expected, error.found) == ("format", 1, 2)


@pytest.mark.parametrize("model", ["sentence", "clip"])
def test_another_revision_of_a_model(planted, tmp_path, model):
    spec = getattr(planted.profile, model)
    retrained = tmp_path / "retrained"
    retrained.mkdir()
    (retrained / "model.safetensors").write_bytes(b"other weights")
    newer = replace(planted.profile, **{model: replace(spec, source=f"path:{retrained}")})
    with pytest.raises(ManifestMismatchError) as caught:
        Gallery.open(planted.folder, newer)
    error = caught.value
    assert error.field == f"{model}.revision"
    assert error.expected == revision_of(getattr(newer, model))
    assert error.found == revision_of(spec)
    assert error.expected != error.found
    assert repr(error.found) in str(error)
    assert "--overwrite" in str(error)


@pytest.mark.parametrize("model", ["sentence", "clip"])
def test_another_dim_of_a_model(planted, model):
    spec = getattr(planted.profile, model)
    longer = replace(planted.profile, **{model: replace(spec, dim=1024)})
    with pytest.raises(ManifestMismatchError) as caught:
        Gallery.open(planted.folder, longer)
    assert (caught.value.field, caught.value.expected) == (f"{model}.dim", 1024)
    assert caught.value.found == spec.dim


def test_another_profile_is_named_when_its_models_differ(planted):
    """One that shares both encoders may search it: nothing that was embedded differs."""
    renamed = replace(planted.profile, name="full")
    assert len(Gallery.open(planted.folder, renamed)) == 60
    other = replace(renamed, clip=replace(renamed.clip, dim=1024))
    with pytest.raises(ManifestMismatchError, match="profile is 'planted', but 'full' is needed"):
        Gallery.open(planted.folder, other)


def test_another_captioner_does_not_matter_to_a_search(planted):
    spec = replace(planted.profile.captioner, source=planted.profile.clip.source)
    assert len(Gallery.open(planted.folder, replace(planted.profile, captioner=spec))) == 60


def test_a_manifest_is_frozen(planted):
    with pytest.raises(ValidationError, match="frozen"):
        planted.manifest.name = "other"


def test_unknown_fields_are_passed_over(planted):
    """A later program may add fields that an older one need not know."""
    edit(planted, colour="blue")
    assert Manifest.read(planted.folder) == planted.manifest


def test_the_thumbnail_digest_covers_names_and_contents(tmp_path):
    root = tmp_path / "thumbnails"
    assert thumbnails_digest(tmp_path)[0] == 0
    (root / "ab").mkdir(parents=True)
    (root / "ab" / "1.webp").write_bytes(b"one")
    digests = {thumbnails_digest(tmp_path)}
    (root / "ab" / "1.webp").rename(root / "ab" / "2.webp")
    digests.add(thumbnails_digest(tmp_path))
    (root / "ab" / "2.webp").write_bytes(b"two")
    digests.add(thumbnails_digest(tmp_path))
    assert len(digests) == 3
    assert {count for count, _ in digests} == {1}


def test_manifest_files_are_the_layout(planted):
    assert sorted(planted.manifest.files) == sorted(REQUIRED_FILES)
    assert [record.id for record in records(60)] == [
        record.id for record in Gallery.open(planted.folder, planted.profile).records
    ]
