"""Several captions an image: which rows of the caption embeddings are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.mapped import scratch
from core.records import CaptionPooling, ImageRecord

NEAR_DUPLICATE = 0.95
"""Cosine of all-MiniLM-L6-v2 from which two captions of one image say the same. Recall hardly
depends on it (0.90, 0.95 and 0.99 find as much); what a reader sees does: above it lies a changed
article or number, below it another word that matters."""

_IMAGES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class CaptionRows:
    """The rows of one image stand together, in the order of its captions; images in row order.

    Attributes:
        first: int64 (n + 1,): the captions of image i are ``first[i]:first[i + 1]``.
    """

    first: np.ndarray

    @classmethod
    def of(cls, records: Sequence[ImageRecord]) -> CaptionRows:
        """Count the captions of each record."""
        counts = (1 + len(record.more_captions) for record in records)
        return cls.counted(np.fromiter(counts, np.int64, len(records)))

    @classmethod
    def counted(cls, counts: Sequence[int] | np.ndarray) -> CaptionRows:
        """Make them of the number of captions of each image."""
        return cls(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64))

    def __len__(self) -> int:
        """Return the number of captions."""
        return int(self.first[-1])

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.first) - 1

    @property
    def single(self) -> bool:
        """Whether no image has more than one."""
        return len(self) == self.images

    @property
    def owners(self) -> np.ndarray:
        """The image of each caption: int64 (captions,), rising."""
        return np.repeat(np.arange(self.images, dtype=np.int64), np.diff(self.first))

    def mean(self, embeddings: np.ndarray, folder: Path | None = None) -> np.ndarray:
        """Return each image's mean embedding, made unit: float32 (n, dim).

        Where the captions of an image cancel each other out, its first one stands for it.

        Args:
            embeddings: float32 (captions, dim), rows of unit norm.
            folder: On its disk the means lie, mapped; None holds them in memory.

        Raises:
            OSError: There is no room.
        """
        if self.single:
            return embeddings
        shape = self.images, embeddings.shape[1]
        means = np.empty(shape, np.float32) if folder is None else scratch(shape, folder)
        for start in range(0, self.images, _IMAGES_AT_ONCE):
            first = self.first[start : start + _IMAGES_AT_ONCE + 1]
            own = embeddings[first[0] : first[-1]]
            begins = first[:-1] - first[0]
            sums = np.add.reduceat(own, begins, axis=0, dtype=np.float64)
            norms = np.linalg.norm(sums, axis=1, keepdims=True)
            lost = norms[:, 0] < 1e-6
            sums[lost], norms[lost] = own[begins[lost]], 1.0
            means[start : start + len(begins)] = sums / norms
        return means

    def indexed(
        self, embeddings: np.ndarray, pooling: CaptionPooling, folder: Path | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what the caption lens indexes and whose each row is, as ``Index.build`` takes it.

        Args:
            embeddings: float32 (captions, dim), rows of unit norm.
            pooling: How several captions of an image are indexed.
            folder: See :meth:`mean`.
        """
        if pooling == "best" and not self.single:
            return embeddings, self.owners
        return self.mean(embeddings, folder), None

    def rows_of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the caption rows of some images, and where each image's begin among them.

        Args:
            images: int (m,), any images, one or more.
        """
        counts = self.first[images + 1] - self.first[images]
        begins = np.cumsum(counts) - counts
        rows = np.arange(int(counts.sum())) + np.repeat(self.first[images] - begins, counts)
        return rows, begins

    def nearest(self, embeddings: np.ndarray, images: np.ndarray, query: np.ndarray) -> list[int]:
        """Return which caption of some images is nearest to a query, from 0; the first of equals.

        Args:
            embeddings: float32 (captions, dim), rows of unit norm.
            images: int (m,), any images.
            query: float32 (dim,), unit norm.
        """
        starts = self.first[images]
        places = np.arange(np.diff(self.first).max(initial=1))
        # Short groups are filled up with their last caption, which never wins over itself.
        last = self.first[images + 1] - 1
        rows = np.minimum(starts[:, None] + places, last[:, None])
        scores = embeddings[rows.ravel()].astype(np.float64) @ query.astype(np.float64)
        chosen: list[int] = scores.reshape(rows.shape).round(7).argmax(axis=1).tolist()
        return chosen


def distinct(embeddings: np.ndarray, at_most: int) -> list[int]:
    """Return which captions of one image to keep: the first, and those unlike it and each other.

    Args:
        embeddings: float32 (captions, dim), rows of unit norm, the best caption first.
        at_most: Most captions kept.
    """
    cosines = embeddings @ embeddings.T
    kept: list[int] = [0]
    for row in range(1, len(embeddings)):
        if len(kept) == at_most:
            break
        if cosines[row, kept].max() < NEAR_DUPLICATE:
            kept.append(row)
    return kept
