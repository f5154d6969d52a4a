"""Ranks of the relevant pictures for every query, a few queries at a time.

The matrix of all scores is never held: 25,000 queries by 100,000 pictures would be 10 GB. Nor are
pictures sorted where counting those that score higher gives the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.search.bm25.word_index import WordIndex

DEPTH = 1000
"""Ranks beyond this one count as not found, except in the median rank."""

# A matrix product is fast over many queries, everything after it over scores that are in the cache.
BLOCK_BYTES = 52_000_000
PART_BYTES = 4_000_000
# Sums of float32 products differ in their last bits with the shape of a block; two captions that
# read the same must tie all the same.
_DECIMALS = 6

Scorer = Callable[[slice], np.ndarray]
"""Scores of a block of queries against every picture: float32 (rows, pictures)."""


def blocks(start: int, stop: int, images: int, size: int) -> Iterator[slice]:
    """Cut queries ``start`` to ``stop`` into blocks whose scores take ``size`` bytes or less."""
    rows = max(1, size // (4 * max(images, 1)))
    for first in range(start, stop, rows):
        yield slice(first, min(first + rows, stop))


def scored(
    scorers: Sequence[Scorer], queries: int, images: int
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Score all queries by every scorer, a block at a time, and yield them in smaller parts.

    Yields:
        Which queries, and for each scorer their scores against every picture: (rows, images).
    """
    for block in blocks(0, queries, images, BLOCK_BYTES):
        whole = [scorer(block) for scorer in scorers]
        for part in blocks(block.start, block.stop, images, PART_BYTES):
            rows = slice(part.start - block.start, part.stop - block.start)
            yield part, [scores[rows] for scores in whole]


def dense_scorer(queries: np.ndarray, images: np.ndarray) -> Scorer:
    """Score by inner product of embeddings: queries (q, dim), images (n, dim), unit norm."""
    vectors = np.asarray(images)  # a memory map would make maps of all that is computed from it

    def score(block: slice) -> np.ndarray:
        scores = queries[block] @ vectors.T
        return np.round(scores, _DECIMALS, out=scores)

    return score


def best_scorer(queries: np.ndarray, vectors: np.ndarray, first: np.ndarray) -> Scorer:
    """Score by the nearest of several embeddings of each picture.

    Args:
        queries: (q, dim), unit norm.
        vectors: (m, dim), unit norm; those of one picture stand together.
        first: int (n + 1,): the rows of picture i are ``first[i]:first[i + 1]``, one or more.
    """
    every = np.asarray(vectors)
    images = len(first) - 1
    most = int(np.diff(first).max(initial=1))

    def score(block: slice) -> np.ndarray:
        asked = queries[block]
        scores = np.empty((len(asked), images), dtype=np.float32)
        step = max(1, PART_BYTES // (4 * len(asked) * most))
        for start in range(0, images, step):
            stop = min(start + step, images)
            products = asked @ every[first[start] : first[stop]].T
            own = first[start:stop] - first[start]
            np.maximum.reduceat(products, own, axis=1, out=scores[:, start:stop])
        return np.round(scores, _DECIMALS, out=scores)

    return score


def random_scorer(images: int, seed: int) -> Scorer:
    """Score at random; what a query gets depends on the seed and its number only."""

    def score(block: slice) -> np.ndarray:
        scores = np.empty((block.stop - block.start, images), dtype=np.float32)
        for row, query in enumerate(range(block.start, block.stop)):
            np.random.default_rng((seed, query)).random(dtype=np.float32, out=scores[row])
        return scores

    return score


def bm25_scorer(queries: Sequence[str], captions: Sequence[str]) -> Scorer:
    """Score by BM25 over the captions, as :class:`core.search.bm25.word_index.WordIndex` does.

    Raises:
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    index = WordIndex(captions)
    return lambda block: np.stack([index.scores(query) for query in queries[block]])


def order(scores: np.ndarray, depth: int) -> np.ndarray:
    """Return the first ``depth`` pictures of each row, best first; ties in picture order.

    Args:
        scores: Float (rows, n).
        depth: Capped at n.

    Returns:
        int (rows, min(depth, n)).
    """
    rows, count = scores.shape
    if depth >= count:
        return np.argsort(-scores, axis=1, kind="stable")
    last = np.partition(scores, count - depth, axis=1)[:, count - depth]
    kept = scores >= last[:, None]
    if np.count_nonzero(kept) > rows * depth:  # equals at the end, of which the first few stay
        for row in range(rows):
            better = np.count_nonzero(scores[row] > last[row])
            kept[row, np.flatnonzero(scores[row] == last[row])[depth - better :]] = False
    candidates = np.flatnonzero(kept).reshape(rows, depth) - count * np.arange(rows)[:, None]
    found = np.take_along_axis(scores, candidates, axis=1)
    by_score = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(candidates, by_score, axis=1)


def ranks_of(scores: np.ndarray, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the exact ranks, from 1, of some pictures in their rows; ties in picture order.

    Args:
        scores: Float (rows, n).
        rows: int (pairs,).
        images: int (pairs,), a picture of each of these rows.

    Returns:
        int64 (pairs,).
    """
    ranks = np.empty(len(rows), dtype=np.int64)
    # One row at a time is faster here than all at once: a row of 100,000 stays in the cache, and
    # the sums along an axis that would replace count_nonzero are several times slower.
    for pair, (row, image) in enumerate(zip(rows.tolist(), images.tolist(), strict=True)):
        own = scores[row, image]
        earlier = np.count_nonzero(scores[row, :image] >= own)
        ranks[pair] = 1 + earlier + np.count_nonzero(scores[row, image + 1 :] > own)
    return ranks


@dataclass(frozen=True, slots=True)
class Relevant:
    """Which pictures are relevant to which query, as flat arrays.

    Attributes:
        query: int (pairs,), rising.
        image: int (pairs,), row of the picture.
        grade: int (pairs,), 1 or more.
        first: int (queries + 1,): pairs of query i are ``first[i]:first[i + 1]``.
    """

    query: np.ndarray
    image: np.ndarray
    grade: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, judged: Sequence[Mapping[int, int]]) -> Relevant:
        """Flatten one ``{picture row: grade}`` for each query; each holds one picture or more."""
        sizes = [len(images) for images in judged]
        return cls(
            query=np.repeat(np.arange(len(judged)), sizes),
            image=np.fromiter((row for images in judged for row in images), dtype=np.int64),
            grade=np.fromiter((g for images in judged for g in images.values()), dtype=np.int64),
            first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        )

    def pairs(self, block: slice) -> slice:
        """Return where the pairs of a block of queries lie."""
        return slice(int(self.first[block.start]), int(self.first[block.stop]))

    def inside(self, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of a block of queries: row in the block and picture, int (pairs,)."""
        pairs = self.pairs(block)
        return self.query[pairs] - block.start, self.image[pairs]

    def best(self, ranks: np.ndarray, block: slice) -> np.ndarray:
        """Return the rank of each query's best placed relevant picture.

        Args:
            ranks: int (pairs of the block,).
            block: Which queries.

        Returns:
            int (rows,).
        """
        best: np.ndarray = np.minimum.reduceat(ranks, self.first[block] - self.first[block.start])
        return best

    def best_scores(self, scores: np.ndarray, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the best score of a relevant and of another picture: two of float (rows,).

        Where every picture is relevant, the second is the first.
        """
        rows, images = self.inside(block)
        starts = self.first[block] - self.first[block.start]
        right: np.ndarray = np.maximum.reduceat(scores[rows, images], starts)
        others = scores.copy()
        others[rows, images] = -np.inf
        wrong = others.max(axis=1)
        return right, np.where(np.isfinite(wrong), wrong, right)

    def placed(self, ranks: np.ndarray) -> list[tuple[tuple[int, int], ...]]:
        """Return for each query the (rank, grade) of its relevant pictures, rank by rank.

        Args:
            ranks: int (pairs,); beyond :data:`DEPTH` they become 0, which is not found.
        """
        kept = np.where(ranks <= DEPTH, ranks, 0)
        pairs = list(zip(kept.tolist(), self.grade.tolist(), strict=True))
        bounds = self.first.tolist()
        return [
            tuple(sorted(pairs[start:stop]))
            for start, stop in zip(bounds, bounds[1:], strict=False)
        ]
