"""The table of a gallery's pictures: its columns, written and read, and what an id must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from core.files import fsync
from core.gallery.folder import damaged
from core.gallery.layout import RECORDS_FILE
from core.records import ImageRecord, record_from

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def check_ids(records: Sequence[ImageRecord]) -> None:
    """Raise ValueError unless ids are distinct and each starts its record's sha256."""
    seen: set[str] = set()
    for row, record in enumerate(records):
        digest = record.sha256
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"record {row} has no sha256 but {digest[:80]!r}")
        if record.id != digest[:16]:
            raise ValueError(f"record {row} has the id {record.id[:80]!r}, not {digest[:16]!r}")
        if record.id in seen:
            raise ValueError(f"the id {record.id} comes twice, again at record {row}")
        seen.add(record.id)


def records_schema(*, several: bool = True, text: bool = True) -> pa.Schema:
    """Return the columns of ``records.parquet``: the fields of ImageRecord, in their order.

    Args:
        several: Whether an image may have more than one caption; without, the column is absent.
        text: Whether there may be text in an image; likewise.
    """
    import pyarrow as pa

    texts = pa.list_(pa.string())
    caption = pa.struct([("text", pa.string()), ("flags", texts), ("confidence", pa.float64())])
    more = [pa.field("more_captions", pa.list_(caption))] if several else []
    if text:
        more += [
            pa.field("text_in_picture", pa.string()),
            pa.field("text_confidence", pa.float64()),
        ]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("file_name", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("caption_flags", texts, nullable=False),
            pa.field("confidence", pa.float64()),
            pa.field("references", texts, nullable=False),
            pa.field("license", pa.string()),
            pa.field("source_url", pa.string()),
            *more,
        ]
    )


def write_records(path: Path, records: Sequence[ImageRecord]) -> None:
    """Write ``records.parquet``, onto the disk; the same records give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [asdict(record) for record in records]
    schema = records_schema(
        several=any(record.more_captions for record in records),
        text=any(record.text_in_picture for record in records),
    )
    with path.open("wb") as file:  # by its path, only one that is text could be written
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")
    fsync(path)


def read_records(folder: Path, content: np.ndarray) -> tuple[ImageRecord, ...]:
    """Return the records in the bytes of ``records.parquet``.

    Raises:
        CorruptGalleryError: They are not such a table, or ids do not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(pa.py_buffer(content)), schema=records_schema())
        records = tuple(record_from(row) for row in table.to_pylist())
        check_ids(records)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{RECORDS_FILE} is not a table of pictures ({error})") from error
    return records
