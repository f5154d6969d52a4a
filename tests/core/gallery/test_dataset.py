"""Galleries as datasets: what ``datasets`` opens, ids, and large ones that are mapped."""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict, fields

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from core.errors import CorruptGalleryError
from core.gallery import parts
from core.gallery.dataset import writing
from core.gallery.dataset.image_ids import ImageIds
from core.gallery.dataset.reading import open_dataset
from core.gallery.dataset.records import Records, check_records, gallery_schema
from core.gallery.folder import GalleryFolder
from core.gallery.layout import shards_of
from core.gallery.manifest import FileRef
from core.gallery.reader import Gallery
from core.records import INDEX_PAIR, LENSES, ImageRecord, values_of
from tests.core.gallery.test_gallery import write
from tests.core.page_cache import cached_pages, forget
from tests.core.planted import image_ids, records


def test_datasets_opens_a_gallery_and_shows_its_pictures(planted):
    rows = datasets.load_from_disk(str(planted.folder))
    assert rows.features["image"] == datasets.Image()
    assert rows.data.schema == rows.features.arrow_schema, "or each opening would copy it all"
    assert rows["caption"][:] == [record.caption for record in records(60)]
    assert rows["references"][1] == ["first reference 1", "second"]
    assert [row["image"].getpixel((0, 0)) for row in rows][:3] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]


def test_rows_are_told_by_their_ids():
    ids = ImageIds.of(image_ids(500))
    assert list(ids) == list(image_ids(500))
    assert [ids.row_of(image_id) for image_id in image_ids(500)] == list(range(500))
    assert (ids[-1], ids[3:5]) == (image_ids(500)[-1], list(image_ids(500)[3:5]))
    first = image_ids(1)[0]
    for other in (first.upper(), first[:-1], f" {first[1:]}", f"+{first[1:]}", "1_0", None, 7, ""):
        assert ids.row_of(other) is None
    column = pa.chunked_array([image_ids(7)[:3], [], image_ids(7)[3:]]).slice(2)
    assert list(ImageIds.of_column(column)) == list(image_ids(7)[2:])
    with pytest.raises(ValueError, match=f"{first} comes twice, again at record 500"):
        ImageIds.of([*image_ids(500), first])


@pytest.fixture
def sharded(planted, monkeypatch):
    """The planted gallery in shards of 7 pictures."""
    monkeypatch.setattr(writing, "BATCH_ROWS", 7)
    monkeypatch.setattr(writing, "SHARD_BYTES", 1)
    manifest = write(planted, planted.folder)
    assert manifest.shards == shards_of(f"data-{n:05d}-of-00009.arrow" for n in range(9))
    assert len(datasets.load_from_disk(str(planted.folder))) == 60
    return planted


def test_opening_a_dataset_reads_no_pictures(tmp_path):
    pictures = records(2000)
    thumbnail = b"RIFF" + bytes(4) + b"WEBP" + bytes(9_988)
    rows = (
        {**asdict(each), "image": {"bytes": thumbnail, "path": f"{each.id}.webp"}}
        for each in pictures
    )
    schema = gallery_schema(several=False, text=False)
    name, *_ = writing.write_dataset(tmp_path, schema, rows)
    files = {name: FileRef.of(tmp_path / name)}
    forget(tmp_path / name)
    opened = open_dataset(GalleryFolder(tmp_path), files, (name,), mapped=True)
    ids = check_records(Records(opened.table), sampled=True)
    assert list(ids) == [each.id for each in pictures]
    assert cached_pages(tmp_path / name).mean() < 0.05
    assert opened.image(1999) == thumbnail


def test_a_large_gallery_is_mapped_and_gives_the_same_answers(sharded):
    whole = Gallery.open(sharded.folder, sharded.profile)
    mapped = Gallery.open(sharded.folder, sharded.profile, verify_up_to=0)
    assert tuple(mapped.records) == tuple(whole.records) == tuple(records(60))
    assert mapped.records[-1] == records(60)[-1] and mapped.records[6:8] == tuple(records(8)[6:])
    for name in (field.name for field in fields(ImageRecord)):
        assert values_of(mapped.records, name) == values_of(records(60), name), name
    for lens in LENSES:
        assert not mapped.embeddings(lens).flags.owndata
        assert np.array_equal(mapped.embeddings(lens), whole.embeddings(lens))
    # What is opened when first asked for is still what was there when the gallery was opened.
    shutil.rmtree(sharded.folder)
    for row in (0, 6, 7, 59):
        picture = Image.open(io.BytesIO(mapped.read_thumbnail(mapped.ids[row])))
        assert picture.getpixel((0, 0)) == (row, 0, 0)
    for lens in LENSES:
        for kind in INDEX_PAIR:
            query = getattr(sharded, lens)[:5]
            found, expected = (each.index(lens, kind).search(query, 5) for each in (mapped, whole))
            assert found == expected


def test_a_large_gallery_that_lacks_something_is_refused(sharded, monkeypatch):
    """Sizes, ids and a sample are looked at; what takes longer is the doctor's."""

    def refused(name: str, change, sentence: str) -> None:
        path = sharded.folder / name
        content = path.read_bytes()
        path.write_bytes(change(content))
        with pytest.raises(CorruptGalleryError, match=sentence):
            Gallery.open(sharded.folder, sharded.profile, verify_up_to=0)
        path.write_bytes(content)

    first = image_ids(1)[0].encode()
    shard = shards_of(path.name for path in sharded.folder.iterdir())[0]
    refused(shard, lambda found: found[:-8], "is not the file that was built")
    refused("clip.npy", lambda found: found + b"\0", "clip.npy is not the file that was built")
    refused("state.json", lambda found: found[::-1], "state.json is not the file that was built")
    monkeypatch.setattr(parts, "SMALL_FILE_BYTES", 0)
    refused(shard, lambda found: found.replace(first, b"0" * 16, 1), "is not that of")
    refused(shard, lambda found: found.replace(b"WEBP", b"WEPB", 1), "is not webp")
    assert len(Gallery.open(sharded.folder, sharded.profile, verify_up_to=0)) == 60


def test_the_columns_of_a_gallery_are_those_of_the_design():
    assert gallery_schema(several=False, text=False).names == [
        *("id", "file_name", "sha256", "width", "height", "image", "caption", "caption_flags"),
        *("confidence", "references", "license", "source_url"),
    ]
