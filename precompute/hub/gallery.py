"""A gallery as a dataset repository: its own files, parquet files for the viewer, and a card."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from core.gallery.dataset.records import IMAGE_COLUMN, image_type
from core.gallery.figures.metrics_file import METRICS_FILE
from core.gallery.folder import GalleryFolder
from core.gallery.hub_copy import VIEWER_FOLDER, published
from core.gallery.layout import MANIFEST_FILE
from core.gallery.manifest import Manifest, read_manifest
from core.gallery.parts import Pictures, check_files, read_pictures
from precompute.hub.card import dataset_card
from precompute.hub.upload import CARD

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
    check_files(held, manifest, mapped=False, read=False)
    pictures = read_pictures(held, manifest, mapped=True)
    beside = [name for name in (METRICS_FILE,) if (folder / name).is_file()]
    for name in dict.fromkeys((MANIFEST_FILE, *published(manifest), *beside)):
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((folder / name).resolve())
    (staged / VIEWER_FOLDER).mkdir()
    count = len(manifest.shards)
    rows = [len(pictures.records) * part // count for part in range(count + 1)]
    for number, (first, end) in enumerate(pairwise(rows)):
        name = f"train-{number:05d}-of-{count:05d}.parquet"
        _write_shard(staged / VIEWER_FOLDER / name, pictures, first, end)
    card = dataset_card(held, content, manifest, pictures.records, repository)
    (staged / CARD).write_text(card, encoding="utf-8")


def _write_shard(path: Path, pictures: Pictures, first: int, end: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image

    table = pictures.records.table
    features = Features({IMAGE_COLUMN: Image(), **Features.from_arrow_schema(table.schema)})
    with pq.ParquetWriter(path, features.arrow_schema, compression="zstd") as writer:
        for start in range(first, end, _GROUP_ROWS):
            rows = range(start, min(end, start + _GROUP_ROWS))
            images = [
                {"bytes": pictures.thumbnails.image(row), "path": f"{pictures.ids[row]}.webp"}
                for row in rows
            ]
            part = table.slice(start, len(rows))
            column = pa.array(images, image_type())
            group = part.add_column(0, IMAGE_COLUMN, column)
            writer.write_table(group.cast(features.arrow_schema))
