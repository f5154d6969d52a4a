"""Maps in a gallery's folder: built with it or added later, named in its manifest, verified."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from core.errors import CorruptGalleryError, GalleryError
from core.gallery.manifest import SourceRef
from core.gallery.reader import Gallery
from core.gallery.writer import write_gallery
from core.map import layout, stored
from core.map.stored import MAP_FILES, add_map, map_file, read_map, write_map
from tests.core import planted


@pytest.fixture
def made(tmp_path):
    """Builds a gallery of 7 pictures, with its map or without."""
    profile = planted.profile(tmp_path / "models")
    captions, clip = planted.unit_rows(7, 8), planted.unit_rows(7, 6, 1)

    def make(name: str, *, with_map: bool):
        folder = tmp_path / name
        if not with_map:
            planted.gallery_on_disk(folder, profile, captions, clip)
            return folder, profile
        records = planted.records(7)
        folder.mkdir()
        write_gallery(
            folder,
            name="planted",
            records=records,
            caption_embeddings=captions,
            clip_embeddings=clip,
            copies=planted.PlantedCopies(records),
            profile=profile,
            source=SourceRef(kind="folder", id="photos"),
            created_at=planted.CREATED_AT,
            extra_files=write_map(folder, records, captions, clip),
        )
        return folder, profile

    return make


def test_a_map_that_is_added_is_the_one_that_a_build_makes(made):
    built, profile = made("built", with_map=True)
    later, _ = made("later", with_map=False)
    assert read_map(Gallery.open(later, profile)) is None
    manifest = hashlib.sha256((later / "manifest.json").read_bytes()).hexdigest()
    figures = {"provenance": {"manifest_sha256": manifest}}
    (later / "metrics.json").write_text(json.dumps(figures))
    places = add_map(later)
    for name in (*MAP_FILES, "manifest.json"):
        assert (built / name).read_bytes() == (later / name).read_bytes(), name
    gallery = Gallery.open(later, profile)
    found = read_map(gallery)
    assert found.method == places.method and found is read_map(gallery)
    for lens, rows in places.coordinates.items():
        np.testing.assert_array_equal(found.coordinates[lens], rows)
        assert not found.coordinates[lens].flags.writeable
    carried = json.loads((later / "metrics.json").read_text())
    assert carried["provenance"]["manifest_sha256"] == gallery.manifest_sha256


def test_a_map_that_was_changed_is_refused(made):
    folder, profile = made("built", with_map=True)
    gallery = Gallery.open(folder, profile)
    path = folder / map_file("clip")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(CorruptGalleryError, match="map.clip.npy is not the file"):
        read_map(gallery)
    with pytest.raises(CorruptGalleryError, match="map.clip.npy"):
        Gallery.open(folder, profile)


def test_a_gallery_that_is_too_large_gets_no_map(made, monkeypatch):
    folder, profile = made("later", with_map=False)
    for module in (layout, stored):
        monkeypatch.setattr(module, "MOST_PICTURES", 6)
    with pytest.raises(GalleryError, match="has 7 pictures; a map holds at most 6"):
        add_map(folder)
    built, _ = made("built", with_map=True)
    assert read_map(Gallery.open(built, profile)) is None
