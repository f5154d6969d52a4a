"""A gallery of format 1 becomes what a build of today writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import CorruptGalleryError, ManifestMismatchError
from core.files import sha256_of
from core.gallery.dataset.records import records_schema
from core.gallery.manifest import sealed
from core.gallery.reader import Gallery
from precompute.galleries.convert import convert
from tests.core.planted import PlantedCopies, gallery_on_disk, profile, records, unit_rows


@pytest.fixture
def models(tmp_path):
    return profile(tmp_path / "models")


@pytest.fixture
def today(tmp_path, models) -> Path:
    gallery_on_disk(tmp_path / "today", models, unit_rows(60, 8), unit_rows(60, 6, seed=1))
    return tmp_path / "today"


@pytest.fixture
def old(tmp_path, models, today) -> Path:
    """The same gallery as format 1 had it, with a report, a large copy, and figures."""
    folder = tmp_path / "birds"
    gallery_on_disk(folder, models, unit_rows(60, 8), unit_rows(60, 6, seed=1))
    values = json.loads((folder / "manifest.json").read_text())
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        (folder / name).unlink()
        del values["files"][name]
    pictures, copies = records(60), PlantedCopies(records(60))
    rows = [asdict(record) for record in pictures]
    schema = records_schema(several=False, text=False)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "records.parquet")
    lines = []
    for record in sorted(pictures, key=lambda record: record.id):
        path = folder / "thumbnails" / record.id[:2] / f"{record.id}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(copies.thumbnail(record.id))
        lines.append(f"{record.id[:2]}/{record.id}.webp:{sha256_of(path)}\n")
    large = folder / "large" / pictures[3].id[:2] / f"{pictures[3].id}.webp"
    large.parent.mkdir(parents=True)
    large.write_bytes(copies.thumbnail(pictures[4].id))
    (folder / "large.json").write_text(json.dumps({pictures[3].id: sha256_of(large)}))
    (folder / "build_report.json").write_text("{}")
    names = [*values["files"], "records.parquet", "large.json", "build_report.json"]
    values |= {
        "format": 1,
        "name": "birds",
        "files": {name: sha256_of(folder / name) for name in names},
        "thumbnails_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
    }
    content, _ = sealed(values)
    (folder / "manifest.json").write_bytes(content)
    figures = {"provenance": {"manifest_sha256": sha256_of(folder / "manifest.json")}}
    (folder / "metrics.json").write_text(json.dumps(figures))
    return folder


def test_it_is_what_a_build_of_today_writes(old, today, models):
    with pytest.raises(ManifestMismatchError, match=f"python -m precompute convert {old}"):
        Gallery.open(old, models)
    manifest = convert(old)
    gallery = Gallery.open(old, models)
    assert (gallery.manifest, gallery.name) == (manifest, "birds")
    for path in today.glob("*"):
        if path.name != "manifest.json":
            assert (old / path.name).read_bytes() == path.read_bytes(), path.name
    ids = [record.id for record in records(60)]
    assert gallery.read_large(ids[3]) == gallery.read_thumbnail(ids[4])
    assert not gallery.has_large(ids[4])
    figures = json.loads((old / "metrics.json").read_text())
    assert figures["provenance"]["manifest_sha256"] == gallery.manifest_sha256
    assert {path.name for path in old.iterdir()} == {
        *(path.name for path in today.iterdir()),
        *("metrics.json", "build_report.json", "large"),
    }
    assert not [path for path in old.parent.iterdir() if path.name.startswith(".")]
    assert convert(old) is None, "nothing to do"


@pytest.mark.parametrize("name", ["records.parquet", "clip.npy", "thumbnails", "large"])
def test_one_that_is_damaged_is_refused_and_stays(old, name):
    path = old / name if (old / name).is_file() else next((old / name).rglob("*.webp"))
    path.write_bytes(path.read_bytes() + b"\0")
    before = sorted(path.name for path in old.rglob("*"))
    with pytest.raises(CorruptGalleryError, match="is damaged: .* built"):
        convert(old)
    assert sorted(path.name for path in old.rglob("*")) == before
    assert not [path for path in old.parent.iterdir() if path.name.startswith(".")]
