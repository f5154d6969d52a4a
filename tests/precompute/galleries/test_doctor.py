"""The doctor: a good gallery passes, and each kind of damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.gallery.layout import shard_file
from core.gallery.manifest import FileRef
from precompute.galleries.doctor import examine
from tests.core.planted import forge_manifest, gallery_on_disk, profile, unit_rows


@pytest.fixture
def models(tmp_path):
    return profile(tmp_path / "models")


@pytest.fixture
def gallery(tmp_path, models) -> Path:
    gallery_on_disk(tmp_path / "birds", models, unit_rows(60, 8), unit_rows(60, 6, seed=1))
    return tmp_path / "birds"


def wrong(gallery: Path, models, **options) -> dict[str, str]:
    """Return what is wrong by the name of the check; each line says what to run."""
    findings = list(examine(gallery, models, **options))
    assert [finding.check for finding in findings][:3] == ["manifest", "files", "records"]
    assert {"device", "captioner", "int8 on the CPU"} < {finding.check for finding in findings}
    assert all("\n" not in finding.line for finding in findings)
    return {finding.check: finding.line for finding in findings if finding.remedy}


def resealed(gallery: Path, name: str) -> None:
    """Make the manifest agree with a file, as somebody would who knows how it is made."""
    from core.gallery.manifest import Manifest

    files = {**Manifest.read(gallery).files, name: FileRef.of(gallery / name)}
    forge_manifest(gallery, files={key: ref.model_dump() for key, ref in files.items()})


def changed(gallery: Path, name: str, change) -> None:
    np.save(gallery / name, change(np.load(gallery / name)))
    resealed(gallery, name)


def test_a_good_gallery_passes(gallery, models):
    lines = [finding.line for finding in examine(gallery, models)]
    assert wrong(gallery, models) == {}
    assert lines[0].startswith("ok     manifest: planted, 60 pictures")
    assert "ok     embeddings of captions: 60 rows of 8, all of unit norm" in lines
    assert "ok     index clip.ivf: finds 100.0% of the 10 nearest of 60 pictures" in lines


@pytest.mark.parametrize("name", [shard_file(0, 1), "clip.npy", "captions.ivf.faiss"])
def test_a_flipped_byte_is_named(gallery, models, name):
    path = gallery / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    line = wrong(gallery, models)["files"]
    assert f"{name} is not the file that was built" in line
    assert f"Run: python -m precompute build SOURCE --out {gallery} --overwrite" in line


def test_rows_that_are_missing_or_not_of_unit_norm_are_named_though_hashes_fit(gallery, models):
    changed(gallery, "clip.npy", lambda rows: rows[:-1])
    found = wrong(gallery, models)
    assert list(found) == ["embeddings of clip"]
    assert "float32 (59, 6), float32 (60, 6) is needed" in found["embeddings of clip"]

    def unnormed(rows):
        rows[41] *= 1.5
        return rows

    gallery_on_disk(gallery.with_name("more"), models, unit_rows(900, 8), unit_rows(900, 6, seed=1))
    changed(gallery.with_name("more"), "captions.npy", unnormed)
    found = wrong(gallery.with_name("more"), models)
    assert list(found) == ["embeddings of captions"]
    assert "row 41 has norm 1.5, not 1" in found["embeddings of captions"]


def test_an_index_of_other_embeddings_is_named(tmp_path, models):
    for number in (0, 1):
        rows = (unit_rows(900, dim, seed=number) for dim in (8, 6))
        gallery_on_disk(tmp_path / str(number), models, *rows)
    other = (tmp_path / "1" / "clip.ivf.faiss").read_bytes()
    (tmp_path / "0" / "clip.ivf.faiss").write_bytes(other)
    resealed(tmp_path / "0", "clip.ivf.faiss")
    found = wrong(tmp_path / "0", models)
    assert list(found) == ["index clip.ivf"]


def test_other_models_and_a_device_that_is_not_there_are_named(gallery, models, tmp_path):
    (tmp_path / "retrained").mkdir()
    (tmp_path / "retrained" / "model.safetensors").write_bytes(b"other weights")
    clip = replace(models.clip, source=f"path:{tmp_path / 'retrained'}")
    found = wrong(gallery, replace(models, clip=clip), device="cuda:99")
    assert set(found) == {"models", "device"}
    assert "clip.revision is" in found["models"] and "--clip" in found["models"]
    assert "no device 'cuda:99'" in found["device"]
