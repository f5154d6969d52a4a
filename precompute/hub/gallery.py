"""A gallery as a dataset repository: its own files, parquet files for the viewer, and a card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.gallery.folder import GalleryFolder
from core.gallery.hub_copy import VIEWER_FOLDER
from core.gallery.layout import MANIFEST_FILE, thumbnail_file
from core.gallery.manifest import Manifest, read_manifest
from core.gallery.metrics_file import METRICS_FILE
from core.gallery.reader import verified_records
from core.gallery.table import records_schema
from core.records import ImageRecord
from precompute.hub.card import dataset_card
from precompute.hub.upload import CARD

_SHARD_BYTES = 200_000_000
_GROUP_ROWS = 100
"""Rows that the viewer reads at once."""


def stage_gallery(folder: Path, staged: Path, repository: str) -> None:
    """Fill an empty folder with what a gallery's repository shall hold.

    The gallery's own files are links to where they lie.

    Args:
        folder: The gallery.
        staged: Where to.
        repository: ``OWNER/NAME``, for the card.

    Raises:
        GalleryError: It is no gallery, or not as it was built.
    """
    held = GalleryFolder(folder)
    content = read_manifest(held)
    manifest = Manifest.parse(folder, content)
    records = verified_records(held, manifest)
    beside = [name for name in (METRICS_FILE,) if (folder / name).is_file()]
    for name in dict.fromkeys((MANIFEST_FILE, *manifest.files, *beside)):
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((folder / name).resolve())
    (staged / VIEWER_FOLDER).mkdir()
    shards = list(_shards(held, records))
    for number, shard in enumerate(shards):
        name = f"train-{number:05d}-of-{len(shards):05d}.parquet"
        _write_shard(staged / VIEWER_FOLDER / name, held, shard)
    card = dataset_card(held, content, manifest, records, repository)
    (staged / CARD).write_text(card, encoding="utf-8")


def _shards(held: GalleryFolder, records: Sequence[ImageRecord]) -> Iterator[Sequence[ImageRecord]]:
    first, size = 0, 0
    for row, record in enumerate(records):
        size += (held.path / thumbnail_file(record.id)).stat().st_size
        if size > _SHARD_BYTES and row > first:
            yield records[first:row]
            first, size = row, 0
    yield records[first:]


def _write_shard(path: Path, held: GalleryFolder, records: Sequence[ImageRecord]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image

    schema = records_schema(several=any(record.more_captions for record in records))
    features = Features({"image": Image(), **Features.from_arrow_schema(schema)})
    with pq.ParquetWriter(path, features.arrow_schema, compression="zstd") as writer:
        for first in range(0, len(records), _GROUP_ROWS):
            rows = [_row(held, record) for record in records[first : first + _GROUP_ROWS]]
            writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))


def _row(held: GalleryFolder, record: ImageRecord) -> dict[str, Any]:
    name = thumbnail_file(record.id)
    image = {"bytes": held.read(name).tobytes(), "path": Path(name).name}
    return {"image": image, **asdict(record)}
