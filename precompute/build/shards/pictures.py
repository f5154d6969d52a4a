"""Rows of a source made ready for the models: decoded ahead, on a few threads, in order."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from core.errors import ImageError, SourceError
from core.gallery.copies import Copies, CopySizes
from core.images.decode import DecodedImage, DecodeLimits, decode
from core.records import Caption
from precompute.build.shards.shard import Skipped
from precompute.sources.types import SourceImage

if TYPE_CHECKING:
    from core.models.text_reader import ReadsText

_MAX_DECODERS = 4

Row = TypeVar("Row")
Ready = TypeVar("Ready")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded row, its copies made."""

    row: SourceImage
    decoded: DecodedImage
    copies: Copies

    def without_content(self) -> Picture:
        """Return it without the encoded bytes, or what fetches them: for another process."""
        return replace(self, row=replace(self.row, content=None))


def prepare(
    row: SourceImage, limits: DecodeLimits, sizes: CopySizes, stop: threading.Event
) -> Picture | Skipped:
    """Decode one row and make its copies, or say why that cannot be.

    Raises:
        DecodingStoppedError: ``stop`` was set.
        SourceError: A file that was there when the source was opened cannot be read: that is no
            fault of the picture, and others may follow.
    """
    try:
        if row.content is None:
            return Skipped(row.file_name, row.problem)
        content = row.content
        if isinstance(content, Path):
            content = _read(content, row.file_name, limits.max_bytes)
        elif not isinstance(content, bytes):
            content = content(limits.max_bytes)
        decoded = decode(content, row.file_name, limits, stop=stop)
        copies = Copies.of(content, row.file_name, limits, decoded, sizes, stop)
    except ImageError as error:
        return Skipped(row.file_name, error.reason)
    return Picture(row, decoded, copies)


def _read(path: Path, file_name: str, max_bytes: int) -> bytes | Path:
    """Return a file's bytes, or the path where decoding refuses it by its kind or size alone."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            return path
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise SourceError(
            f"{file_name} can no longer be read ({error.strerror}). Finished shards are kept: give "
            "the same command again once it can be; without the file, it starts over."
        ) from error


def ahead(
    rows: Iterator[Row], ready: Callable[[Row, threading.Event], Ready], window: int
) -> Generator[Ready, None, None]:
    """Yield rows in order as ``ready`` makes them, while at most ``window`` more are in the works.

    Close the generator to drop what is waiting and to stop what is being decoded: ``ready`` is
    given an event that is set then.
    """
    decoders = ThreadPoolExecutor(min(_MAX_DECODERS, os.cpu_count() or 1), "decode")
    stop = threading.Event()
    pending: deque[Future[Ready]] = deque()
    try:
        for row in rows:
            pending.append(decoders.submit(ready, row, stop))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        stop.set()
        decoders.shutdown(wait=False, cancel_futures=True)


def text_fields(picture: Picture, reader: ReadsText | None) -> dict[str, Any]:
    """Return what a record says of the text in a picture, read where most of its pixels are kept.

    Args:
        picture: Whose text.
        reader: None looks for none.
    """
    if reader is None:
        return {}
    large = picture.copies.large
    found = reader.read(Image.open(io.BytesIO(large)) if large else picture.decoded.image)
    return {"text_in_picture": found.text, "text_confidence": found.confidence}


def given_caption(row: SourceImage) -> Caption:
    """Return the source's own caption, flagged if there is none."""
    text = row.given_caption or ""
    return Caption(text, () if text else ("empty",))
