"""Where a stream of parquet files can be entered: at any row group, as their footers say."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


class RowGroups:
    """The row groups of a stream's files, whose footers are read as far as is needed.

    Args:
        files: Paths or addresses, in the order of the stream.
    """

    def __init__(self, files: Sequence[str]) -> None:
        """Read nothing yet."""
        self._files = files
        self._starts: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._known = 0
        self._rows = 0

    @classmethod
    def of(cls, dataset: Dataset | IterableDataset) -> RowGroups | None:
        """Return those of a dataset as it was loaded; None if it is no stream of parquet files."""
        told = getattr(getattr(dataset, "_ex_iterable", None), "kwargs", {})
        files, chosen = told.get("files"), told.get("row_groups_list")
        if not files or chosen is None or any(groups is not None for groups in chosen):
            return None
        return cls(files)

    def count(self) -> int | None:
        """Return the number of rows if all files lie on this machine; None else.

        Raises:
            OSError: A file cannot be read; so are the next two.
            ArrowException: It is not parquet; likewise.
        """
        if not all(Path(file).is_file() for file in self._files):
            return None
        self._read_to(None)
        return self._rows

    def entry(self, start: int) -> int:
        """Return the first row of the group that has row ``start``, or of the last group."""
        place = self._place(start)
        return self._starts[place] if place >= 0 else 0

    def read(self, dataset: IterableDataset, start: int) -> Iterator[Mapping[str, Any]]:
        """Yield rows from number ``start`` on, reading no group before.

        Args:
            dataset: What these groups are of; columns may have been chosen since.
            start: From 0.
        """
        place = self._place(start)
        if place < 0:
            return iter(())
        file, group = self._places[place]
        count = len(self._files)
        groups = dataset.shard(count, file).reshard()
        parts = chain(
            (groups.shard(groups.num_shards, later) for later in range(group, groups.num_shards)),
            (dataset.shard(count, later) for later in range(file + 1, count)),
        )
        return islice(chain.from_iterable(parts), start - self._starts[place], None)

    def _place(self, start: int) -> int:
        self._read_to(start)
        return bisect_right(self._starts, start) - 1

    def _read_to(self, start: int | None) -> None:
        """Read footers until a row is known, or all of them."""
        import pyarrow.parquet as pq
        from datasets.utils.file_utils import xopen

        while self._known < len(self._files) and (start is None or start >= self._rows):
            with xopen(self._files[self._known], "rb") as file:
                footer = pq.read_metadata(file)
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group).num_rows
                if rows:
                    self._starts.append(self._rows)
                    self._places.append((self._known, group))
                self._rows += rows
            self._known += 1
