"""The columns of a gallery's pictures, and records that become objects when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from core.gallery.dataset.image_ids import ImageIds, hex_numbers
from core.records import ImageRecord, RecordSequence, captions_from, record_from

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMN = "image"
"""A picture's thumbnail, or its large copy, as ``datasets`` stores an image."""
OPTIONAL_COLUMNS = frozenset({"more_captions", "text_in_picture", "text_confidence"})
"""Absent where no picture has a value."""
_MAY_BE_NULL = frozenset({"confidence", "license", "source_url", *OPTIONAL_COLUMNS})
_LISTS = frozenset({"caption_flags", "references"})
_BATCH_ROWS = 1000
_SAMPLES, _SAMPLED_ROWS = 8, 32


def check_ids(records: Sequence[ImageRecord]) -> None:
    """Raise ValueError unless ids are distinct and each starts its record's sha256."""

    def numbers() -> Iterator[int]:
        for row, record in enumerate(records):
            digest = record.sha256
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise ValueError(f"record {row} has no sha256 but {digest[:80]!r}")
            if record.id != digest[:16]:
                raise ValueError(f"record {row} has the id {record.id[:80]!r}, not {digest[:16]!r}")
            yield int(record.id, 16)

    ImageIds(np.fromiter(numbers(), np.uint64, len(records)))


def image_type() -> pa.DataType:
    """Return the type of :data:`IMAGE_COLUMN`."""
    import pyarrow as pa

    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def records_schema(*, several: bool = True, text: bool = True) -> pa.Schema:
    """Return the columns of a gallery's dataset but the picture: those of ImageRecord, in order.

    Args:
        several: Whether an image may have more than one caption; without, the column is absent.
        text: Whether there may be text in an image; likewise.
    """
    import pyarrow as pa

    texts = pa.list_(pa.string())
    caption = pa.struct([("text", pa.string()), ("flags", texts), ("confidence", pa.float64())])
    more = [("more_captions", pa.list_(caption))] if several else []
    if text:
        more += [("text_in_picture", pa.string()), ("text_confidence", pa.float64())]
    return pa.schema(
        [
            ("id", pa.string()),
            ("file_name", pa.string()),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("caption", pa.string()),
            ("caption_flags", texts),
            ("confidence", pa.float64()),
            ("references", texts),
            ("license", pa.string()),
            ("source_url", pa.string()),
            *more,
        ]
    )


def gallery_schema(*, several: bool, text: bool) -> pa.Schema:
    """Return the columns of a gallery's dataset: those of its records, and the thumbnail.

    Args:
        several: See :func:`records_schema`.
        text: Likewise.
    """
    import pyarrow as pa

    records = records_schema(several=several, text=text)
    return records.insert(records.get_field_index("caption"), pa.field(IMAGE_COLUMN, image_type()))


def large_schema() -> pa.Schema:
    """Return the columns of the large copies' dataset: id, the sha256 of the copy, the copy."""
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("sha256", pa.string()), (IMAGE_COLUMN, image_type())])


def check_schema(found: pa.Schema) -> None:
    """Raise ValueError unless a table has the columns of :func:`records_schema`, and no other."""
    known = records_schema()
    for name in found.names:
        if name not in known.names:
            raise ValueError(f"the column {name[:80]!r} is not known")
        if found.field(name).type != known.field(name).type:
            raise ValueError(f"the column {name} is of {found.field(name).type}")
    missing = {*known.names} - {*found.names} - OPTIONAL_COLUMNS
    if missing or len({*found.names}) != len(found.names):
        raise ValueError(f"a column is missing or comes twice ({', '.join(sorted(missing))})")


class Records(RecordSequence):
    """The pictures of a table; one becomes an object when it is asked for.

    Attributes:
        table: Columns as in :func:`records_schema`.
    """

    def __init__(self, table: pa.Table) -> None:
        """Hold the table."""
        self.table = table
        self._batches = table.to_batches(_BATCH_ROWS)
        self._starts = np.cumsum([0, *map(len, self._batches)])

    def __len__(self) -> int:
        """Return the number of pictures."""
        return int(self._starts[-1])

    def made(self, row: int) -> ImageRecord:
        """Return one picture."""
        at = int(np.searchsorted(self._starts, row, "right")) - 1
        (values,) = self._batches[at].slice(row - int(self._starts[at]), 1).to_pylist()
        return record_from(values)

    def __iter__(self) -> Iterator[ImageRecord]:
        """Return all pictures, some at a time in memory."""
        for batch in self._batches:
            yield from map(record_from, batch.to_pylist())

    def values(self, name: str) -> Sequence[Any]:
        """Return one field of all records, in row order; see :func:`core.records.values_of`."""
        if name not in self.table.column_names:
            (default,) = (each.default for each in fields(ImageRecord) if each.name == name)
            return [default] * len(self)
        found = self.table[name].to_pylist()
        if name == "more_captions":
            return list(map(captions_from, found))
        if name == "text_in_picture":
            return [text or "" for text in found]
        return list(map(tuple, found)) if name in _LISTS else found

    @property
    def caption_counts(self) -> np.ndarray:
        """Number of captions of each picture: int64 (n,)."""
        return 1 + self._lengths("more_captions")

    @property
    def any_references(self) -> bool:
        """Whether a person wrote a caption of any picture."""
        return bool(self._lengths("references").any())

    def texts_in_pictures(self) -> dict[str, str]:
        """Return what was read in each picture that has text, by its id, in row order."""
        import pyarrow.compute as pc

        if "text_in_picture" not in self.table.column_names:
            return {}
        table = self.table.select(["id", "text_in_picture"])
        found = table.filter(pc.greater(pc.utf8_length(table["text_in_picture"]), 0))
        return dict(zip(*(found[name].to_pylist() for name in found.column_names), strict=True))

    def _lengths(self, name: str) -> np.ndarray:
        import pyarrow.compute as pc

        if name not in self.table.column_names:
            return np.zeros(len(self), np.int64)
        lengths = pc.fill_null(pc.list_value_length(self.table[name]), 0)
        return lengths.to_numpy().astype(np.int64)


def check_records(records: Records, *, sampled: bool) -> ImageIds:
    """Return the ids of a table's pictures, having checked what is in its columns.

    Args:
        records: The pictures.
        sampled: Whether texts and hashes of some rows are enough. Ids are always checked whole.

    Raises:
        ValueError: An id is not the beginning of its record's sha256 or comes twice, a value is
            missing, or a text is none.
    """
    table = records.table
    for name in table.column_names:
        if name not in _MAY_BE_NULL and table[name].null_count:
            raise ValueError(f"a record has no {name}")
    ids = ImageIds.of_column(table["id"])
    for part in _some(table) if sampled else [table]:
        part.validate(full=True)
        started, own = hex_numbers(part["sha256"], 64)[:, 0], hex_numbers(part["id"], 16)[:, 0]
        unlike = np.flatnonzero(started != own)
        if unlike.size:
            row = int(unlike[0])
            raise ValueError(f"the id {int(own[row]):016x} is not that of {int(started[row]):016x}")
    return ids


def _some(table: pa.Table) -> Iterator[pa.Table]:
    for start in np.linspace(0, max(0, len(table) - _SAMPLED_ROWS), _SAMPLES, dtype=np.int64):
        yield table.slice(int(start), _SAMPLED_ROWS)
