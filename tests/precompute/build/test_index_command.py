"""Another index for a built gallery: records and embeddings stay, figures are written down."""

from __future__ import annotations

import numpy as np
import pytest

from core.config import Settings
from core.errors import GalleryError, QueryError
from core.gallery.manifest import Manifest
from core.gallery.reader import Gallery
from core.models.profiles import Models
from core.records import LENSES
from precompute.build.index_command import (
    IndexChoice,
    as_asked,
    describe,
    file_kinds,
    query_texts,
    reindex,
)
from tests.core.planted import forge_manifest, gallery_on_disk, profile, records, unit_rows


def test_a_gallery_gets_another_index_and_keeps_the_rest(tmp_path):
    folder, models = tmp_path / "gallery", Models(profile(tmp_path / "models"))
    captions, clip = unit_rows(1200, 8), unit_rows(1200, 6)
    before = gallery_on_disk(folder, models.profile, captions, clip)
    gallery = Gallery.open(folder, models.profile)
    reindex(folder, models, IndexChoice.ivfsq8, 1 << 30, lambda text: None)
    after = Manifest.read(folder)
    assert after.index_kinds == ("ivfsq8",)
    same = {name: ref for name, ref in before.files.items() if not name.endswith(".faiss")}
    assert {name: ref for name, ref in after.files.items() if not name.endswith(".faiss")} == same
    assert sorted(path.name for path in folder.glob("*.faiss")) == [
        "captions.ivfsq8.faiss",
        "clip.ivfsq8.faiss",
    ]
    (entry,) = after.indexes["clip"]
    assert entry.recall >= 0.95 and entry.queries == 120
    assert describe(entry).startswith(f"ivfsq8, nprobe {entry.effort} of {entry.nlist}: recall@10")
    again = Gallery.open(folder, models.profile)
    assert again.index("clip").default_nprobe == entry.effort
    # One that was open goes on with what it had.
    found = gallery.index("clip", "ivf").search(clip[:4], 5, nprobe=1000)
    assert found == again.index("clip").search(clip[:4], 5, nprobe=1000)
    reindex(folder, models, IndexChoice.auto, 1 << 30, lambda text: None)
    assert Manifest.read(folder).index_kinds == ("flat", "ivf")


def test_the_effort_of_an_index_that_is_there_is_found_anew(tmp_path):
    """As of one that an earlier version tuned by other queries."""
    folder, models = tmp_path / "gallery", Models(profile(tmp_path / "models"))
    built = gallery_on_disk(folder, models.profile, unit_rows(1200, 8), unit_rows(1200, 6))
    old = {lens: [one.model_dump() for one in built.indexes[lens]] for lens in LENSES}
    for entries in old.values():
        entries[1] |= {"effort": 1, "recall": 0.3, "curve": []}
    forge_manifest(folder, indexes=old)
    assert Gallery.open(folder, models.profile).index("clip", "ivf").default_nprobe == 1
    inodes = {path: path.stat().st_ino for path in folder.glob("*.faiss")}
    reindex(folder, models, IndexChoice.auto, 1 << 30, lambda text: None)
    after = Manifest.read(folder)
    assert (after.indexes, after.files) == (built.indexes, built.files)
    assert {path: path.stat().st_ino for path in folder.glob("*.faiss")} == inodes
    again = Gallery.open(folder, models.profile)
    assert again.index("clip", "ivf").default_nprobe == built.indexes["clip"][1].effort > 1


def test_texts_are_asked_of_a_large_gallery_alone(monkeypatch):
    class Encoder:
        def encode_text(self, texts):
            return np.eye(len(texts), dtype=np.float32)

    assert query_texts(Encoder(), Encoder(), records(50)) == {}
    monkeypatch.setattr("core.search.engines.training.FLAT_UP_TO", 40)
    found = query_texts(Encoder(), Encoder(), records(50))
    shapes = {lens: [rows.shape for rows in sorts] for lens, sorts in found.items()}
    assert shapes == dict.fromkeys(LENSES, [(50, 50)] * 2)


def test_queries_are_short_or_composed_of_two_captions():
    long = "a black dog runs through deep snow at night and chases a ball"
    short, composed = as_asked([long, "two cats sit on it", "a dog", "a dog", ""])
    assert short == ["a black dog runs", "two cats sit", "a dog"]
    assert composed == [
        "a black dog runs a dog",
        "two cats sit a dog",
        "a dog",
        "a dog and chases a ball",
        "sit on it",
    ]


@pytest.mark.parametrize("choice", list(IndexChoice))
def test_a_choice_names_its_kind(choice):
    assert choice.kinds == (() if choice is IndexChoice.auto else (choice.value,))
    if choice is IndexChoice.milvus:
        with pytest.raises(QueryError, match="Build the gallery first"):
            file_kinds(choice)


def test_a_gallery_is_searched_in_milvus_where_the_settings_say_so(tmp_path, monkeypatch):
    pytest.importorskip("milvus_lite", reason="requirements-milvus.txt is not installed")
    monkeypatch.setattr("core.gallery.index_files.get_settings", Settings)
    monkeypatch.setenv("TWOLENS_MILVUS_URI", str(tmp_path / "vectors.db"))
    folder, models = tmp_path / "gallery", Models(profile(tmp_path / "models"))
    captions, clip = unit_rows(60, 8), unit_rows(60, 6)
    gallery_on_disk(folder, models.profile, captions, clip)
    plain = Gallery.open(folder, models.profile)
    assert plain.index_kinds == ("flat", "ivf")
    monkeypatch.setenv("TWOLENS_INDEX_BACKEND", "milvus")
    with pytest.raises(GalleryError, match="has no milvus index. Give it one with: .* milvus$"):
        Gallery.open(folder, models.profile)
    manifest = reindex(folder, models, IndexChoice.milvus, 1 << 30, lambda text: None)
    assert manifest.index_kinds == ("milvus", "flat", "ivf")
    gallery = Gallery.open(folder, models.profile)
    assert gallery.index_kinds == ("milvus",)
    monkeypatch.setenv("TWOLENS_INDEX_BACKEND", "auto")
    assert Gallery.open(folder, models.profile).index_kinds == ("milvus",)
    for lens, rows in (("captions", captions), ("clip", clip)):
        found = gallery.index(lens).search(rows[:5], 7)
        assert found == plain.index(lens, "flat").search(rows[:5], 7)
        gallery.index(lens).close()
    monkeypatch.setenv("TWOLENS_INDEX_BACKEND", "faiss")
    assert Gallery.open(folder, models.profile).index_kinds == ("flat", "ivf")
    monkeypatch.delenv("TWOLENS_MILVUS_URI")
    monkeypatch.setenv("TWOLENS_INDEX_BACKEND", "auto")
    assert Gallery.open(folder, models.profile).index_kinds == ("flat", "ivf")
