"""Reading a dataset of pictures: columns as Arrow, a picture's bytes when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from core.gallery.dataset.records import IMAGE_COLUMN, image_type
from core.gallery.folder import GalleryFolder, HeldFile, damaged

if TYPE_CHECKING:
    import pyarrow as pa

    from core.gallery.manifest import FileRef

_ID_BYTES = 16


class Dataset:
    """The rows of a dataset's shards, which are held open: replaced files go on being read.

    Make one with :func:`open_dataset`. Safe to use from many threads.

    Attributes:
        table: All columns but the pictures.
    """

    def __init__(self, table: pa.Table, shards: Sequence[_Shard]) -> None:
        """Hold the columns and where the pictures lie."""
        self.table = table
        self._shards = shards
        self._starts = np.cumsum([0, *(len(shard.lengths) for shard in shards)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._starts[-1])

    def release(self) -> None:
        """Take what was read of mapped columns out of this process's resident memory."""
        for shard in self._shards:
            shard.file.release()

    def image(self, row: int) -> bytes:
        """Return the picture of a row: webp.

        Raises:
            CorruptGalleryError: The file was shortened, or no webp lies there.
            GalleryError: It cannot be read.
        """
        at = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._shards[at].image(row - int(self._starts[at]))


class _Shard:
    """An open shard and where the picture of each of its rows lies in it."""

    def __init__(self, file: HeldFile, positions: np.ndarray, lengths: np.ndarray) -> None:
        self.file, self._positions, self.lengths = file, positions, lengths

    def image(self, row: int) -> bytes:
        content = self.file.read_at(int(self._positions[row]), int(self.lengths[row]))
        if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
            raise damaged(self.file.folder, f"a picture in {self.file.name} is not webp")
        return content


def open_dataset(
    held: GalleryFolder, files: Mapping[str, FileRef], names: Sequence[str], *, mapped: bool
) -> Dataset:
    """Open the shards of a dataset.

    Args:
        held: The gallery's folder.
        files: What the manifest says of each.
        names: Of the shards, in order; one or more.
        mapped: Whether the columns are mapped, their files not verified; else they are copied
            into this process's memory and the files are those that were built.

    Raises:
        CorruptGalleryError: A shard is missing, not the one that was built, or none.
        GalleryError: It cannot be read.
    """
    import pyarrow as pa

    tables, shards = [], []
    for name in names:
        file = held.held(name, files[name].bytes)
        # Pictures, which are not read, lie between the columns.
        content = file.map(scattered=True) if mapped else file.read()
        if not mapped and hashlib.sha256(content.data).hexdigest() != files[name].sha256:
            raise damaged(held.path, f"{name} is not the file that was built")
        try:
            columns, positions, lengths = _parsed(content, file)
            tables.append(columns if mapped else _copied(columns))
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(held.path, f"{name} is not a table of pictures ({error})") from error
        shards.append(_Shard(file, positions, lengths))
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise damaged(held.path, f"its shards have different columns ({error})") from error
    return Dataset(table, shards)


def _parsed(content: np.ndarray, file: HeldFile) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Return a shard's columns, and where in the file each picture begins and how long it is."""
    import pyarrow as pa

    buffer = pa.py_buffer(content)
    reader = pa.ipc.open_stream(pa.BufferReader(buffer))
    if reader.schema.field(IMAGE_COLUMN).type != image_type():
        raise ValueError(f"the column {IMAGE_COLUMN} holds no pictures")
    names = [name for name in reader.schema.names if name != IMAGE_COLUMN]
    batches, positions, lengths = [], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    read = list(reader)
    for batch in read:
        _fetch_columns(batch, file, buffer.address)
    for batch in read:
        batch.validate()
        pictures = batch.column(IMAGE_COLUMN).field("bytes")
        if pictures.null_count:
            raise ValueError("a record has no picture")
        batches.append(batch.select(names))
        if len(batch):
            _, ends, data = pictures.buffers()
            offsets = np.frombuffer(ends, np.int32, len(batch) + 1).astype(np.int64)
            positions.append(offsets[:-1] + (data.address - buffer.address))
            lengths.append(np.diff(offsets).astype(np.int32))
    schema = pa.schema([reader.schema.field(name) for name in names])
    found = np.concatenate(positions), np.concatenate(lengths)
    if (found[1] < 0).any() or (found[0] < 0).any() or (found[0] + found[1] > len(content)).any():
        raise ValueError("a picture lies outside the file")
    return pa.Table.from_batches(batches, schema=schema), *found


def _fetch_columns(batch: pa.RecordBatch, file: HeldFile, address: int) -> None:
    """Begin to read what opening a mapped gallery looks at: its ids, and where texts begin."""
    for part in chain.from_iterable(column.buffers() for column in batch.columns):
        if part is not None and 0 < part.size <= _ID_BYTES * len(batch):
            file.fetch(part.address - address, part.size)


def _copied(table: pa.Table) -> pa.Table:
    """Return a table in memory of its own, so that the file's need not be kept."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()
