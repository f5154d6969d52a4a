"""Writing a Hugging Face dataset as ``datasets`` does, without it: the same rows, the same bytes.

``save_to_disk`` of ``datasets`` names a fingerprint that changes from run to run, and importing it
takes a second, which a visitor who downloads a gallery need not wait for. A test opens what is
written here with ``datasets.load_from_disk``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from core.files import fsync, write_atomically
from core.gallery.dataset.records import IMAGE_COLUMN, image_type
from core.gallery.layout import (
    DATASET_INFO_FILE,
    DATASET_STATE_FILE,
    SHARD_PATTERN,
    shard_file,
)

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_BYTES = 400_000_000
"""A shard ends with the batch in which it reaches this size."""
BATCH_ROWS = 1000
_BATCH_BYTES = 32_000_000


def write_dataset(
    folder: Path,
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
) -> tuple[str, ...]:
    """Write rows as a dataset that ``datasets.load_from_disk`` opens, onto the disk.

    Rows are taken as they are written, a batch of them at a time in memory.

    Args:
        folder: Existing; a dataset in it is replaced.
        schema: The columns, one of them :data:`core.gallery.dataset.records.IMAGE_COLUMN`.
        rows: Values by column; an image is ``{"bytes": ..., "path": ...}``.

    Returns:
        The names of all its files.

    Raises:
        OSError: A file could not be written; its number is kept.
    """
    for path in (*folder.glob(SHARD_PATTERN), *folder.glob(".data-*.partial")):
        path.unlink()
    features = {field.name: _feature(field) for field in schema}
    described = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    digest = hashlib.sha256()
    partial: list[Path] = []
    batches = _batches(described, rows)
    batch = next(batches, None)
    while batch is not None or not partial:  # a dataset without rows has one shard too
        path = folder / f".data-{len(partial):05d}.partial"
        partial.append(path)
        with path.open("wb") as file:  # by its path, only one that is text could be written
            batch = _write_shard(_Hashed(file, digest), described, batch, batches)
        fsync(path)
    names = [shard_file(number, len(partial)) for number in range(len(partial))]
    for path, name in zip(partial, names, strict=True):
        path.rename(folder / name)
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": digest.hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    for name, content in ((DATASET_INFO_FILE, info), (DATASET_STATE_FILE, state)):
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    return (*names, DATASET_INFO_FILE, DATASET_STATE_FILE)


class _Hashed:
    """A file whose bytes also go into a digest."""

    closed = False

    def __init__(self, file: IO[bytes], digest: hashlib._Hash) -> None:
        self._file, self._digest = file, digest
        self.written = 0

    def write(self, content: bytes) -> int:
        self._file.write(content)
        self._digest.update(content)
        size = memoryview(content).nbytes
        self.written += size
        return size

    def flush(self) -> None:
        self._file.flush()


def _write_shard(
    file: _Hashed,
    schema: pa.Schema,
    batch: pa.RecordBatch | None,
    batches: Iterator[pa.RecordBatch],
) -> pa.RecordBatch | None:
    """Write a batch and those after it until the shard is full; return the next one, if any."""
    import pyarrow as pa

    with pa.ipc.new_stream(file, schema) as writer:
        while batch is not None:
            writer.write_batch(batch)
            batch = next(batches, None)
            if file.written >= SHARD_BYTES:
                break
    return batch


def _batches(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    waiting: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += len(row[IMAGE_COLUMN]["bytes"])
        if len(waiting) == BATCH_ROWS or size >= _BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(waiting, schema=schema)
            waiting, size = [], 0
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=schema)


def _feature(field: pa.Field) -> dict[str, Any]:
    """Describe a column as ``datasets.Features`` does."""
    if field.name == IMAGE_COLUMN and field.type == image_type():
        return {"_type": "Image"}
    return _type(field.type)


def _type(of: pa.DataType) -> dict[str, Any]:
    import pyarrow as pa

    if pa.types.is_list(of):
        return {"feature": _type(of.value_type), "_type": "List"}
    if pa.types.is_struct(of):
        return {field.name: _type(field.type) for field in of}
    return {"dtype": "float64" if of == pa.float64() else str(of), "_type": "Value"}
