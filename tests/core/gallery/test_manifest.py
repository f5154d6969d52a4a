"""A gallery that is missing, half-written, tampered with or of other models is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from pydantic import ValidationError

from core.errors import (
    CorruptGalleryError,
    GalleryNotFoundError,
    IncompleteGalleryError,
    ManifestMismatchError,
)
from core.gallery.layout import REQUIRED_FILES, index_files, shard_file
from core.gallery.manifest import Manifest, ModelRef
from core.gallery.reader import Gallery
from core.models.locate import revision_of
from core.records import INDEX_PAIR
from tests.core.planted import forge_manifest, records

ALL_FILES = (*REQUIRED_FILES, *index_files(INDEX_PAIR), shard_file(0, 1))


def written_files(planted) -> dict[str, dict]:
    return {name: ref.model_dump() for name, ref in planted.manifest.files.items()}


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
    assert Gallery.open(planted.folder, planted.profile).manifest == planted.manifest
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


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file(planted, name):
    (planted.folder / name).unlink()
    refused(planted, CorruptGalleryError, f"planted is damaged: {name} is missing")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_changed_byte(planted, name):
    path = planted.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(planted, CorruptGalleryError, f"{name} is not the file that was built")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_truncated_file(planted, name):
    path = planted.folder / name
    path.write_bytes(path.read_bytes()[:-1])
    refused(planted, CorruptGalleryError, f"{name} is not the file that was built")


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
        ({"caption_origin": "somewhere"}, "caption_origin"),
        ({"format": "1.0"}, "format"),
        ({"name": "../elsewhere"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": ""}, "name"),
        ({"files": {"clip.npy": {"sha256": "abc", "bytes": 1}}}, "files.clip.npy.sha256"),
    ],
)
def test_a_manifest_with_an_unfit_field(planted, changes, field):
    forge_manifest(planted.folder, **changes)
    refused(planted, CorruptGalleryError, f"manifest.json is not valid at {field}")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "large/../../outside.txt",
        "/etc/hostname",
        "..",
        ".",
        "",
        "a\\..\\b",
        "C:outside.txt",
        "./clip.npy",
        "a//b",
        "a\0b",
        "manifest.json",
    ],
)
def test_a_file_name_that_leads_out_of_the_folder(planted, name):
    (planted.folder.parent / "outside.txt").write_text("secret")
    forge_manifest(planted.folder, files={**written_files(planted), name: {"sha256": "0" * 64}})
    refused(planted, CorruptGalleryError, "manifest.json is not valid at files")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_manifest_that_does_not_cover_a_file(planted, name):
    files = written_files(planted)
    del files[name]
    forge_manifest(planted.folder, files=files)
    refused(planted, CorruptGalleryError, f"manifest.json does not name {name}")


def test_another_format_version(planted):
    forge_manifest(planted.folder, format=3, files={"new layout": 7})
    error = refused(planted, ManifestMismatchError, "format is 3, but 2 is needed")
    assert (error.field, error.expected, error.found) == ("format", 2, 3)


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


def test_unknown_fields_are_refused(planted):
    """A field of another name may be one of ours with a changed letter."""
    forge_manifest(planted.folder, colour="blue")
    refused(planted, CorruptGalleryError, "not valid at colour: Extra inputs are not permitted")
    forge_manifest(planted.folder, counts={"images": 60, "duplicats": 1})
    refused(planted, CorruptGalleryError, "not valid at counts.duplicats")


def test_a_changed_byte_of_the_manifest_is_refused_wherever_it_is(planted):
    path = planted.folder / "manifest.json"
    content = path.read_bytes()
    random = Random(0)
    for _ in range(200):
        at, bits = random.randrange(len(content)), random.randrange(1, 256)
        path.write_bytes(content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :])
        with pytest.raises((CorruptGalleryError, ManifestMismatchError)):
            Gallery.open(planted.folder, planted.profile)
    path.write_bytes(content.replace(b" ", b"\t", 1))  # the same values, in other bytes
    refused(planted, CorruptGalleryError, "manifest.json is not the file that was built")
    path.write_bytes(content)
    assert Gallery.open(planted.folder, planted.profile).manifest.self_sha256 is not None


@pytest.mark.parametrize("change", [dict.popitem, lambda v: v.update(self_sha256=None)])
def test_a_manifest_without_its_own_digest_is_to_be_built_again(planted, change):
    path = planted.folder / "manifest.json"
    values = json.loads(path.read_text())
    assert list(values)[-1] == "self_sha256"
    change(values)
    path.write_text(json.dumps(values))
    refused(planted, CorruptGalleryError, "holds no digest of itself (self_sha256). Build it again")


def test_what_file_managers_leave_in_the_folder_does_not_count(planted):
    for name in (".DS_Store", "Thumbs.db", "._clip.npy"):
        (planted.folder / name).write_bytes(b"a file manager's own")
    (planted.folder / "@eaDir").mkdir()
    assert len(Gallery.open(planted.folder, planted.profile)) == 60


def test_manifest_files_are_the_layout(planted):
    assert sorted(planted.manifest.files) == sorted(ALL_FILES)
    assert [record.id for record in records(60)] == [
        record.id for record in Gallery.open(planted.folder, planted.profile).records
    ]
