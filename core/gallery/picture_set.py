"""What a gallery and an upload have in common: pictures by id, their embeddings and indexes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core.errors import UnknownImageError
from core.gallery.dataset.image_ids import ImageIds
from core.mapped import let_go, read_rows
from core.records import INDEX_PAIR, ImageRecord, IndexKind, Lens
from core.search.engines.protocol import VectorIndex
from core.search.fusion import Spread
from core.search.query import check_index_kind, check_lens

T = TypeVar("T")

BLOCKS, _BLOCK_ROWS = 2048, 16
ROWS_AT_ONCE = 1024


class PictureSet(ABC):
    """Pictures that can be looked up and searched, and never change. Safe for many threads.

    Attributes:
        folder: Where it lies.
        records: The pictures, in row order; of a large gallery each is made when it is asked for.
        ids: Theirs, in row order.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[ImageRecord],
        ids: ImageIds,
        embeddings: Mapping[Lens, np.ndarray],
    ) -> None:
        """Hold the parts; row i of each array is record i."""
        self.folder = folder
        self.records = records
        self.ids = ids
        self._embeddings = embeddings
        self._indexes: dict[tuple[Lens, IndexKind], VectorIndex] = {}
        self._moments: dict[Lens, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()
        self._columns: dict[str, Any] = {}
        self._columns_lock = threading.RLock()  # one may be made of others

    @property
    @abstractmethod
    def name(self) -> str:
        """What the page calls it."""

    @property
    def index_kinds(self) -> tuple[IndexKind, ...]:
        """The kinds of index that can be searched, the best first."""
        return INDEX_PAIR

    @abstractmethod
    def _make_index(self, lens: Lens, kind: IndexKind) -> VectorIndex:
        """Return an index over all pictures; called once for each lens and kind."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        """Tell whether there is a picture of this id."""
        return image_id in self.ids

    def row(self, image_id: str) -> int:
        """Return the row of a picture.

        Raises:
            UnknownImageError: No such id.
        """
        row = self.ids.row_of(image_id)
        if row is None:
            raise UnknownImageError(str(image_id))
        return row

    def record(self, image_id: str) -> ImageRecord:
        """Return one picture's record.

        Raises:
            UnknownImageError: No such id.
        """
        return self.records[self.row(image_id)]

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

    def scores(self, lens: Lens, image_ids: Sequence[str], query: np.ndarray) -> np.ndarray:
        """Return the scores of some pictures: float32, one an id.

        Args:
            lens: Whose.
            image_ids: Known ids.
            query: float32 (dim,), unit norm, by the lens's encoder.
        """
        rows = np.array([self.row(image_id) for image_id in image_ids], dtype=np.int64)
        found: np.ndarray = read_rows(self.embeddings(lens), rows) @ query
        return found

    def all_scores(self, lens: Lens, query: np.ndarray) -> np.ndarray:
        """Return the scores of all pictures: float32 (n,), in row order.

        Args:
            lens: Whose.
            query: float32 (dim,), unit norm, by the lens's encoder.
        """
        embeddings = self.embeddings(lens)
        found: np.ndarray = embeddings @ query
        let_go(embeddings)
        return found

    def spread(self, lens: Lens, query: np.ndarray) -> Spread:
        """Return how the scores of all pictures lie for a query, without computing them.

        The mean and the covariance of the embeddings tell both numbers exactly; they are computed
        at the first call, of a large gallery from a sample of the rows.

        Args:
            lens: Whose.
            query: float32 (dim,), unit norm, by the lens's encoder.
        """
        with self._lock:
            if lens not in self._moments:
                self._moments[lens] = _moments(self.embeddings(lens))
        mean, covariance = self._moments[lens]
        return Spread(float(mean @ query), max(0.0, float(query @ covariance @ query)) ** 0.5)

    def nearest_captions(self, image_ids: Sequence[str], query: np.ndarray) -> Sequence[int]:
        """Return which of its captions is nearest to a query for each picture, from 0.

        Args:
            image_ids: Known ids.
            query: float32 (dim,), unit norm, by the caption lens's encoder.
        """
        return [0] * len(image_ids)

    def column(self, name: str, make: Callable[[], T]) -> T:
        """Return what a search derives of all records, made when it is first asked for, and kept.

        Args:
            name: Of what is made.
            make: Makes it; row i of it is about record i.
        """
        with self._columns_lock:
            if name not in self._columns:
                self._columns[name] = make()
            found: T = self._columns[name]
            return found

    def index(self, lens: Lens, kind: IndexKind | None = None) -> VectorIndex:
        """Return an index, made or opened on first use.

        Args:
            lens: Whose.
            kind: One of :attr:`index_kinds`; None takes the best.

        Raises:
            QueryError: No such lens or kind, or an upload without pictures yet.
            CorruptGalleryError: The index's file does not fit the records.
        """
        check_lens(lens)
        kind = check_index_kind(kind, self.index_kinds)
        return self._made(lens, kind)

    def exact_index(self, lens: Lens) -> VectorIndex:
        """Return the flat index, which needs no file, offered or not; for measurements."""
        return self._made(lens, "flat")

    def _made(self, lens: Lens, kind: IndexKind) -> VectorIndex:
        with self._lock:
            if (lens, kind) not in self._indexes:
                self._indexes[lens, kind] = self._make_index(lens, kind)
            return self._indexes[lens, kind]


def sampled_rows(count: int, block_rows: int = _BLOCK_ROWS) -> np.ndarray:
    """Return some rows of many, all of few: int64, rising, the same ones each time.

    They come in blocks, for a file is read by the page; in many of them, for pictures that lie
    together are often alike.

    Args:
        count: How many rows there are.
        block_rows: Of each of 2,048 blocks.
    """
    if count <= BLOCKS * block_rows:
        return np.arange(count)
    starts = np.linspace(0, count - block_rows, BLOCKS).astype(np.int64)
    rows: np.ndarray = np.unique(starts[:, None] + np.arange(block_rows))
    return rows


def _moments(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of rows, of many from a sample: float64 (dim,), (dim, dim)."""
    rows, dim = sampled_rows(len(embeddings)), embeddings.shape[1]
    total, products = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(rows), ROWS_AT_ONCE):  # a copy of some, never of all
        part = read_rows(embeddings, rows[start : start + ROWS_AT_ONCE])
        total += part.sum(axis=0, dtype=np.float64)
        products += part.T @ part
    mean = total / max(1, len(rows))
    return mean, products / max(1, len(rows)) - np.outer(mean, mean)
