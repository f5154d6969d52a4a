"""Streams of parquet files are entered at a row group, and nothing before it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SourceError
from precompute.sources.dataset.rows import DatasetSource
from precompute.sources.open import open_source
from precompute.sources.types import SourceOptions

_BYTES = 50_000


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Rows 0 to 24 in groups of four, in three files, one of them without a group."""
    folder = tmp_path_factory.mktemp("parquet")
    for name, rows in (("a", range(10)), ("c", range(10, 25))):
        contents = [np.random.default_rng(row).bytes(_BYTES) for row in rows]
        cells = [{"bytes": content, "path": None} for content in contents]
        table = pa.table({"image": cells, "text": [f"row {row}" for row in rows]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=4)
    pq.ParquetWriter(folder / "b.parquet", table.schema).close()
    return folder


def opened(folder: Path, **changes) -> DatasetSource:
    source = open_source(SourceOptions(str(folder), **changes))
    assert isinstance(source, DatasetSource)
    return source


def told(source: DatasetSource, start: int) -> list[tuple[str, bytes, tuple[str, ...]]]:
    return [(row.file_name, row.content, row.references) for row in source.read(start)]


@pytest.mark.parametrize("start", [0, 3, 4, 9, 10, 17, 24, 25, 99])
def test_from_any_row_on_the_rows_are_those_of_the_whole(files, start):
    source = opened(files)
    assert source.total == 25
    assert told(source, start) == told(opened(files), 0)[start:]
    assert told(opened(files, limit=20), start) == told(opened(files), 0)[start:20]


def test_a_row_is_read_from_its_group_on(files):
    source = opened(files)
    assert [source.entry(row) for row in (0, 3, 4, 9, 10, 13, 14, 24, 25, 99)] == [
        *(0, 0, 4, 8, 10, 10, 14, 22, 22, 22)
    ]


def test_what_lies_before_is_not_read(files):
    def read(start: int) -> int:
        source = opened(files)
        before = psutil.Process().io_counters().read_chars
        rows = sum(1 for _ in source.read(start))
        assert rows == 25 - start
        return psutil.Process().io_counters().read_chars - before

    assert read(0) > 25 * _BYTES
    assert read(23) < 6 * _BYTES  # the group of rows 22 to 24, and the ends of files


def test_a_file_that_vanished_is_one_sentence(files, tmp_path):
    for name in ("a", "c"):
        (tmp_path / f"{name}.parquet").write_bytes((files / f"{name}.parquet").read_bytes())
    source = opened(tmp_path)
    (tmp_path / "c.parquet").unlink()
    with pytest.raises(SourceError, match=r"could not be read after 20 rows"):
        list(source.read(20))
