"""Pictures that come one batch at a time, searchable at every moment as an unchanging snapshot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import QueryError, UnknownImageError
from core.gallery import check_lens
from core.gallery_layout import thumbnail_path
from core.index import Index, check_index_kind
from core.records import ImageRecord, IndexKind, Lens

_FIRST_CAPACITY = 64


class GrowingEmbeddings:
    """Rows of unit norm that are appended cheaply and read without locking.

    A view given out never changes: new rows go behind it, into spare room that doubles when it is
    used up; a changed or removed row makes a new array.

    Args:
        dim: Length of a row.
    """

    def __init__(self, dim: int) -> None:
        """Start with no rows."""
        self._rows = np.empty((_FIRST_CAPACITY, dim), np.float32)
        self._size = 0

    def append(self, rows: np.ndarray) -> None:
        """Add float32 (n, dim)."""
        needed = self._size + len(rows)
        if needed > len(self._rows):
            larger = np.empty((max(needed, 2 * len(self._rows)), self._rows.shape[1]), np.float32)
            larger[: self._size] = self._rows[: self._size]
            self._rows = larger
        self._rows[self._size : needed] = rows
        self._size = needed

    def replace(self, row: int, embedding: np.ndarray) -> None:
        """Put another embedding in the place of one row."""
        self._rows = self._rows.copy()
        self._rows[row] = embedding

    def remove(self, row: int) -> None:
        """Take one row out; those behind it move up."""
        self._rows = np.delete(self._rows, row, axis=0)
        self._size -= 1

    def view(self) -> np.ndarray:
        """Return all rows, read-only: float32 (n, dim)."""
        rows = self._rows[: self._size]
        rows.setflags(write=False)
        return rows


class Snapshot:
    """The pictures of an upload at one moment; what a ``SearchService`` searches.

    Its indexes are built when they are first asked for. Safe to use from many threads.

    Attributes:
        name: What the page calls it.
        records: The pictures, in row order.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        records: Sequence[ImageRecord],
        caption_embeddings: np.ndarray,
        clip_embeddings: np.ndarray,
    ) -> None:
        """Hold the parts; row i of both arrays is record i."""
        self.name = name
        self.records = tuple(records)
        self._folder = folder
        self._embeddings: dict[Lens, np.ndarray] = {
            "captions": caption_embeddings,
            "clip": clip_embeddings,
        }
        self._ids = tuple(record.id for record in self.records)
        self._rows = {image_id: row for row, image_id in enumerate(self._ids)}
        self._indexes: dict[tuple[Lens, IndexKind], Index] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.records)

    def __contains__(self, image_id: object) -> bool:
        """Tell whether there is a picture of this id."""
        return image_id in self._rows

    def row(self, image_id: str) -> int:
        """Return the row of a picture.

        Raises:
            UnknownImageError: No such id.
        """
        try:
            return self._rows[image_id]
        except (KeyError, TypeError):
            raise UnknownImageError(str(image_id)) from None

    def record(self, image_id: str) -> ImageRecord:
        """Return one picture's record.

        Raises:
            UnknownImageError: No such id.
        """
        return self.records[self.row(image_id)]

    def thumbnail(self, image_id: str) -> Path:
        """Return the path of a picture's webp thumbnail, never built from an unknown id.

        Raises:
            UnknownImageError: No such id.
        """
        self.row(image_id)
        return thumbnail_path(self._folder, image_id)

    def embedding(self, lens: Lens, image_id: str) -> np.ndarray:
        """Return a read-only view of one embedding: float32 (dim,), unit norm.

        Raises:
            UnknownImageError: No such id.
            QueryError: No such lens.
        """
        return self.embeddings(lens)[self.row(image_id)]

    def embeddings(self, lens: Lens) -> np.ndarray:
        """Return a lens's embeddings, read-only: float32 (n, dim), row i = record i.

        Raises:
            QueryError: No such lens.
        """
        check_lens(lens)
        return self._embeddings[lens]

    def index(self, lens: Lens, kind: IndexKind) -> Index:
        """Return an index, built on first use.

        Raises:
            QueryError: No such lens or kind, or there is no picture yet.
        """
        check_lens(lens)
        check_index_kind(kind)
        if not self.records:
            raise QueryError("No photo is searchable yet: add some, then have them described.")
        with self._lock:
            if (lens, kind) not in self._indexes:
                self._indexes[lens, kind] = Index.build(self._embeddings[lens], self._ids, kind)
            return self._indexes[lens, kind]
