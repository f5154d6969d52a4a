"""Shards made by one process: rows decoded ahead, shards written behind, models busy between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from precompute.build.shards.pictures import Picture, ahead
from precompute.build.shards.shard import Skipped
from precompute.build.shards.stages import Decoding, Describing, ShardRows, write

if TYPE_CHECKING:
    import threading

    from core.gallery.copies import Copies
    from precompute.build.workspace import Workspace
    from precompute.sources.types import SourceImage


def make_shards(
    numbers: Iterator[int],
    rows: ShardRows,
    decoding: Decoding,
    describing: Describing,
    workspace: Workspace,
    *,
    shard_size: int,
    window: int,
    advance: Callable[[int], object],
) -> dict[int, int]:
    """Make shards, in order, until the source ends.

    Args:
        numbers: Of the shards to make, rising.
        rows: Reads them.
        decoding: Decodes their rows, on threads and in the processes of the sandbox.
        describing: Describes their pictures, on this thread.
        workspace: Takes them.
        shard_size: Rows of a whole shard; one with fewer is the last.
        window: Rows that are decoded ahead.
        advance: Is told how many more rows are done.

    Returns:
        Rows of each shard that was made, by number.

    Raises:
        SourceError: The source stopped answering.
        ModelError: A model is missing or cannot run.
        OSError: A shard cannot be written.
    """
    made: dict[int, int] = {}

    def flat() -> Iterator[tuple[int, SourceImage]]:
        for number in numbers:
            found = rows(number)
            yield from ((number, row) for row in found)
            if len(found) < shard_size:
                return

    def ready(row: tuple[int, SourceImage], stop: threading.Event) -> tuple[int, Picture | Skipped]:
        return row[0], decoding(row[1], stop)

    prepared = ahead(flat(), ready, window)
    try:
        with ShardWriter(workspace).writing() as writer:
            for number, own in groupby(prepared, key=itemgetter(0)):
                described = describing((row for _, row in own), writer.keep, advance)
                writer.end_shard(partial(write, workspace, number, described))
                made[number] = described.shard.rows
    finally:
        prepared.close()
    return made


class ShardWriter:
    """One thread that writes in the order in which it is asked, while the models go on.

    At most one shard is written while the next one is described.

    Args:
        workspace: Takes the shards.
    """

    def __init__(self, workspace: Workspace) -> None:
        """Start a thread that waits."""
        self._folder = workspace.copies
        self._thread = ThreadPoolExecutor(1, "write")
        self._waiting: deque[Future[None]] = deque()
        self._of_shard = 0
        self._failed = False

    def keep(self, image_id: str, copies: Copies) -> None:
        """Write the copies of a picture of the shard that is described now."""
        self._ask(lambda: copies.write(self._folder, image_id, sync=True))

    def end_shard(self, work: Callable[[], None]) -> None:
        """Write the shard itself, after its pictures; wait for the one before."""
        while len(self._waiting) > self._of_shard:
            self._waiting.popleft().result()
        self._ask(work)
        self._of_shard = 0

    def _ask(self, work: Callable[[], None]) -> None:
        self._waiting.append(self._thread.submit(self._do, work))
        self._of_shard += 1
        while self._waiting[0].done():  # raise what it raised
            self._waiting.popleft().result()
            self._of_shard = min(self._of_shard, len(self._waiting))
            if not self._waiting:
                return

    def _do(self, work: Callable[[], None]) -> None:
        if self._failed:  # a shard's marker must not follow a picture that could not be written
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise

    @contextmanager
    def writing(self) -> Iterator[ShardWriter]:
        """Write what is left before leaving, on an error too: it was described already."""
        try:
            yield self
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown()
