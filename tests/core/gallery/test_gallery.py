"""What is written is what is read: records, embeddings, indexes and thumbnails."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from core.errors import (
    CorruptGalleryError,
    EmbeddingError,
    IncompleteGalleryError,
    QueryError,
    UnknownImageError,
)
from core.files import sha256_of
from core.gallery.layout import shard_file
from core.gallery.manifest import Counts, FileRef, Manifest, SourceRef
from core.gallery.reader import Gallery
from core.gallery.writer import write_gallery
from core.records import INDEX_PAIR, LENSES
from tests.core.planted import (
    CREATED_AT,
    PlantedCopies,
    brute_force,
    forge_manifest,
    gallery_on_disk,
    profile,
    records,
    unit_rows,
)

SHARD = shard_file(0, 1)


def write(planted, folder, **changes):
    arguments = {
        "name": "planted",
        "records": records(60),
        "caption_embeddings": planted.captions,
        "clip_embeddings": planted.clip,
        "copies": PlantedCopies(records(60)),
        "profile": planted.profile,
        "source": SourceRef(kind="folder", id="photos"),
        "created_at": CREATED_AT,
    }
    return write_gallery(folder, **{**arguments, **changes})


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_records_and_embeddings_come_back_as_they_were_given(planted):
    gallery = Gallery.open(planted.folder, planted.profile)
    assert (gallery.name, len(gallery), gallery.folder) == ("planted", 60, planted.folder)
    assert list(gallery.records) == records(60)
    assert np.array_equal(gallery.embeddings("captions"), planted.captions)
    assert np.array_equal(gallery.embeddings("clip"), planted.clip)
    for row in (0, 59):
        record = records(60)[row]
        assert gallery.record(record.id) == record
        assert np.array_equal(gallery.embedding("clip", record.id), planted.clip[row])
        assert np.array_equal(gallery.embedding("captions", record.id), planted.captions[row])
        assert gallery.read_thumbnail(record.id) == PlantedCopies(records(60)).thumbnail(record.id)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("kind", INDEX_PAIR)
def test_every_index_ranks_its_lens_by_brute_force(planted, lens, kind):
    gallery = Gallery.open(planted.folder, planted.profile)
    embeddings = {"captions": planted.captions, "clip": planted.clip}[lens]
    index = gallery.index(lens, kind)
    assert index is gallery.index(lens, kind)
    (hits,) = index.search(embeddings[3:4], 10, nprobe=10)
    ids = [record.id for record in gallery.records]
    assert [(hit.id, pytest.approx(hit.score, abs=1e-6)) for hit in hits] == brute_force(
        embeddings, ids, embeddings[3], 10
    )


def test_embeddings_are_read_only_and_not_copied_for_a_row(planted):
    gallery = Gallery.open(planted.folder, planted.profile)
    row = gallery.embedding("clip", gallery.records[0].id)
    assert np.shares_memory(row, gallery.embeddings("clip"))
    assert row.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 1


@pytest.mark.parametrize("image_id", ["", "0" * 16, "../../manifest.json", None, ["a"]])
def test_an_unknown_id_is_refused_and_never_becomes_a_path(planted, image_id):
    gallery = Gallery.open(planted.folder, planted.profile)
    for look_up in (
        gallery.record,
        gallery.read_thumbnail,
        lambda id_: gallery.embedding("clip", id_),
    ):
        with pytest.raises(UnknownImageError):
            look_up(image_id)


def test_an_unknown_lens_or_kind_is_refused(planted):
    gallery = Gallery.open(planted.folder, planted.profile)
    with pytest.raises(QueryError, match="captions, clip; got 'blip'"):
        gallery.index("blip", "flat")
    with pytest.raises(QueryError, match="no hnsw index; it has flat and ivf"):
        gallery.index("clip", "hnsw")
    with pytest.raises(QueryError):
        gallery.embeddings("blip")


def test_the_same_input_gives_the_same_bytes(planted, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    assert write(planted, again) == planted.manifest
    assert contents(again) == contents(planted.folder)
    later = datetime(2027, 1, 1, tzinfo=timezone.utc)
    assert write(planted, again, created_at=later).files == planted.manifest.files


def test_it_has_no_pickle_and_nothing_but_its_layout(planted):
    arrays = [planted.folder / "captions.npy", planted.folder / "clip.npy"]
    assert [np.load(path, allow_pickle=False).dtype for path in arrays] == [np.float32] * 2
    assert {name for name in contents(planted.folder) if "/" not in name} == {
        "manifest.json",
        *planted.manifest.files,
    }


@pytest.mark.parametrize("size", [0, 1])
def test_a_gallery_of_one_or_no_picture(tmp_path, size):
    models = profile(tmp_path / "models")
    folder = tmp_path / "small"
    gallery_on_disk(folder, models, unit_rows(size, 8), unit_rows(size, 6))
    gallery = Gallery.open(folder, models)
    assert len(gallery) == len(gallery.records) == size
    for lens, dim in (("captions", 8), ("clip", 6)):
        assert gallery.embeddings(lens).shape == (size, dim)
        for kind in INDEX_PAIR:
            (hits,) = gallery.index(lens, kind).search(unit_rows(1, dim), 5)
            assert [hit.id for hit in hits] == [record.id for record in gallery.records]


def test_an_open_gallery_outlives_the_replacement_of_its_folder(planted, tmp_path):
    gallery = Gallery.open(planted.folder, planted.profile)
    before = gallery.index("clip", "flat").search(planted.clip[:5], 5)
    planted.folder.rename(tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    gallery_on_disk(planted.folder, planted.profile, planted.captions[:7], planted.clip[:7])
    assert gallery.index("clip", "flat").search(planted.clip[:5], 5) == before
    assert np.array_equal(gallery.embeddings("clip"), planted.clip)
    assert len(Gallery.open(planted.folder, planted.profile)) == 7


def test_extra_files_are_covered_by_the_manifest(planted):
    report = planted.folder / "build_report.json"
    report.write_text("{}")
    manifest = write(planted, planted.folder, extra_files=["build_report.json"])
    assert manifest.files["build_report.json"].sha256 == sha256_of(report)
    Gallery.open(planted.folder, planted.profile)
    report.write_text('{"skipped": []}')
    with pytest.raises(CorruptGalleryError, match="build_report.json is not the file"):
        Gallery.open(planted.folder, planted.profile)


def test_given_captions_leave_out_the_captioner(planted):
    manifest = write(planted, planted.folder, caption_origin="column:sentences")
    assert (manifest.captioner, manifest.caption_origin) == (None, "column:sentences")
    assert planted.manifest.captioner.name == "captioner"


@pytest.mark.parametrize("lens", ["caption", "clip"])
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda rows: rows[:-1], "have 59 rows; the records need 60"),
        (lambda rows: rows * 2, "Row 0 has norm 2"),
        (lambda rows: rows * np.float32("nan"), "Row 0 holds a value that is not finite"),
        (lambda rows: rows[:, :-1], "are needed; got length"),
        (lambda rows: rows[0], "must have the shape"),
    ],
)
def test_unfit_embeddings_are_refused_before_anything_is_written(
    planted, tmp_path, lens, damage, sentence
):
    folder = tmp_path / "refused"
    folder.mkdir()
    key = f"{lens}_embeddings"
    rows = damage(planted.captions if lens == "caption" else planted.clip)
    with pytest.raises(EmbeddingError, match=f"(?i)the {lens} embeddings .*{sentence}"):
        write(planted, folder, **{key: rows})
    assert list(folder.iterdir()) == []


def test_counts_and_ids_that_disagree_are_refused(planted):
    with pytest.raises(ValueError, match="counts.images is 61 for 60 records"):
        write(planted, planted.folder, counts=Counts(images=61))
    pictures = records(60)
    twice = [*pictures[:-1], pictures[0]]
    with pytest.raises(ValueError, match="comes twice, again at record 59"):
        write(planted, planted.folder, records=twice)
    for change in ({"id": "../../etc/passwd"}, {"sha256": "F" * 64}, {"sha256": "abc"}):
        with pytest.raises(ValueError, match="record 0 has"):
            write(planted, planted.folder, records=[replace(pictures[0], **change), *pictures[1:]])
    assert Manifest.read(planted.folder) == planted.manifest


def test_missing_thumbnails_and_extra_files_are_refused(planted):
    with pytest.raises(IncompleteGalleryError, match="thumbnail of folder/picture 4.jpg is missi"):
        write(planted, planted.folder, copies=PlantedCopies(records(4)))
    with pytest.raises(IncompleteGalleryError, match="the first is build_report.json"):
        write(planted, planted.folder, extra_files=["build_report.json"])


def test_a_rewrite_that_dies_leaves_no_gallery(planted):
    """The old manifest goes first: half of the new files must not pass for the old gallery."""
    (planted.folder / "clip.ivf.faiss").unlink()
    (planted.folder / "clip.ivf.faiss").mkdir()
    with pytest.raises(OSError, match="Is a directory.*clip.ivf.faiss"):
        write(planted, planted.folder)
    with pytest.raises(IncompleteGalleryError):
        Gallery.open(planted.folder, planted.profile)


def test_a_folder_of_photos_is_told_from_a_gallery(tmp_path, planted):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "IMG_1.JPG").write_bytes(b"any")
    with pytest.raises(IncompleteGalleryError) as refused:
        Gallery.open(tmp_path / "holiday", planted.profile)
    assert "is a folder of photos, not a gallery" in str(refused.value)
    assert f"precompute build {tmp_path / 'holiday'} --out galleries/holiday" in str(refused.value)


def forge(planted, name):
    """Make the manifest agree with a file that was changed after the build."""
    files = {**planted.manifest.files, name: FileRef.of(planted.folder / name)}
    forge_manifest(planted.folder, files={key: ref.model_dump() for key, ref in files.items()})


def _pickled(planted, tmp_path):
    np.save(planted.folder / "clip.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _short_array(planted, tmp_path):
    np.save(planted.folder / "clip.npy", planted.clip[:-1])


def _double_array(planted, tmp_path):
    np.save(planted.folder / "clip.npy", planted.clip.astype(np.float64))


def _not_unit(planted, tmp_path):
    np.save(planted.folder / "clip.npy", planted.clip * np.float32(2))


def _by_column(planted, tmp_path):
    np.save(planted.folder / "clip.npy", np.asfortranarray(planted.clip))


def _half_a_row_more(planted, tmp_path):
    with (planted.folder / "clip.npy").open("ab") as file:
        file.write(bytes(12))


def _no_header(planted, tmp_path):
    (planted.folder / "clip.npy").write_bytes(b"\x93NUMPY\x01\0\xff\xff{")


def _not_arrow(planted, tmp_path):
    (planted.folder / SHARD).write_bytes(b"ARROW1 nothing ARROW1")


def _other_records(planted, tmp_path):
    gallery_on_disk(tmp_path / "other", planted.profile, planted.captions[:9], planted.clip[:9])
    shutil.copy(tmp_path / "other" / SHARD, planted.folder)


def _rewritten(planted, change):
    """Write the shard anew with its table changed."""
    path = planted.folder / SHARD
    with path.open("rb") as file:
        table = pa.ipc.open_stream(file).read_all()
    table = change(table)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def _foreign_columns(planted, tmp_path):
    _rewritten(planted, lambda table: table.append_column("colour", [["red"] * 60]))


def _numbers_for_references(planted, tmp_path):
    def change(table):
        at = table.schema.get_field_index("references")
        return table.set_column(at, "references", [[[1]] * 60])

    _rewritten(planted, change)


def _first_id(image_id):
    def change(planted, tmp_path):
        def ids(table):
            given = table["id"].to_pylist()
            return table.set_column(0, "id", [[image_id or given[1], *given[1:]]])

        _rewritten(planted, ids)

    return change


@pytest.mark.parametrize(
    ("damage", "name", "sentence"),
    [
        (_pickled, "clip.npy", "is not an array .*Python objects"),
        (_short_array, "clip.npy", r"is float32 \(59, 6\), float32 \(60, 6\) is needed"),
        (_double_array, "clip.npy", r"is float64 \(60, 6\), float32"),
        (_not_unit, "clip.npy", "cannot be searched: Row 0 has norm 2"),
        (_by_column, "clip.npy", "is stored by column"),
        (_half_a_row_more, "clip.npy", "is not as long as its 60 rows"),
        (_no_header, "clip.npy", "is not an array"),
        (_not_arrow, SHARD, "is not a table of pictures"),
        (_other_records, SHARD, "has 9 records, the manifest says 60"),
        (_foreign_columns, SHARD, "the column 'colour' is not known"),
        (_numbers_for_references, SHARD, "the column references is of list<.*int64>"),
        (_first_id("../../../etc/passwd"), SHARD, "record 0 has '../../../etc/passwd', not 16 d"),
        (_first_id("0" * 16), SHARD, "the id 0000000000000000 is not that of"),
        (_first_id(None), SHARD, "comes twice, again at record 1"),
    ],
)
def test_files_that_do_not_fit_are_refused_even_when_their_hash_is_right(
    planted, tmp_path, damage, name, sentence
):
    damage(planted, tmp_path)
    forge(planted, name)
    with pytest.raises(CorruptGalleryError, match=sentence):
        Gallery.open(planted.folder, planted.profile)


@pytest.mark.parametrize("source", ["captions.ivf.faiss", "clip.flat.faiss"])
def test_an_index_of_another_lens_or_kind_is_refused(planted, source):
    shutil.copy(planted.folder / source, planted.folder / "clip.ivf.faiss")
    forge(planted, "clip.ivf.faiss")
    with pytest.raises(CorruptGalleryError, match="clip.ivf.faiss is not an index of its embed"):
        Gallery.open(planted.folder, planted.profile)


def test_a_forged_flat_index_has_no_say(planted):
    """It holds the embeddings once more, for other programs; a search reads the array itself."""
    path = planted.folder / "clip.flat.faiss"
    path.write_bytes(path.read_bytes()[:45] + b"\xff" * 100)
    forge(planted, "clip.flat.faiss")
    (hits,) = (
        Gallery.open(planted.folder, planted.profile)
        .index("clip", "flat")
        .search(planted.clip[3:4], 3)
    )
    ids = [record.id for record in records(60)]
    assert [hit.id for hit in hits] == [
        image_id for image_id, _ in brute_force(planted.clip, ids, planted.clip[3], 3)
    ]
