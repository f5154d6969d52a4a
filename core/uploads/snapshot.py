"""Pictures that come one batch at a time, searchable at every moment as an unchanging snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import QueryError, UnknownImageError
from core.gallery.dataset.image_ids import ImageIds
from core.gallery.layout import thumbnail_path
from core.gallery.picture_set import PictureSet
from core.records import ImageRecord, IndexKind, Lens
from core.search.index import Index

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


class Snapshot(PictureSet):
    """The pictures of an upload at one moment; what a ``SearchService`` searches.

    Its indexes are built when they are first asked for.
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
        ids = ImageIds.of(record.id for record in records)
        embeddings: dict[Lens, np.ndarray] = {
            "captions": caption_embeddings,
            "clip": clip_embeddings,
        }
        super().__init__(folder, tuple(records), ids, embeddings)
        self._name = name

    @property
    def name(self) -> str:
        """What the page calls it."""
        return self._name

    def read_thumbnail(self, image_id: str) -> bytes:
        """Return a picture's thumbnail: webp.

        Raises:
            UnknownImageError: The upload has no such picture, or no longer.
        """
        try:
            self.row(image_id)
            return thumbnail_path(self.folder, image_id).read_bytes()
        except FileNotFoundError as error:
            raise UnknownImageError(image_id) from error

    def _make_index(self, lens: Lens, kind: IndexKind) -> Index:
        if not self.records:
            raise QueryError("No photo is searchable yet: add some, then have them described.")
        return Index.build(self._embeddings[lens], self.ids, kind)
