"""Ranks of the relevant pictures for every query, a block of queries at a time.

The matrix of all scores is never held: 25,000 queries by 100,000 pictures would be 10 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DEPTH = 1000
"""Ranks beyond this one count as not found, except in the median rank."""

_BLOCK_BYTES = 24_000_000
# Sums of float32 products differ in their last bits with the shape of a block; two captions that
# read the same must tie all the same.
_DECIMALS = 6

Scorer = Callable[[slice], np.ndarray]
"""Scores of a block of queries against every picture: float32 (rows, pictures)."""


def blocks(queries: int, images: int) -> Iterator[slice]:
    """Cut the queries into blocks whose scores take about 24 MB."""
    rows = max(1, min(queries, _BLOCK_BYTES // (4 * max(images, 1))))
    for start in range(0, queries, rows):
        yield slice(start, min(start + rows, queries))


def dense_scorer(queries: np.ndarray, images: np.ndarray) -> Scorer:
    """Score by inner product of embeddings: queries (q, dim), images (n, dim), unit norm."""

    def score(block: slice) -> np.ndarray:
        return np.round(queries[block] @ images.T, _DECIMALS)

    return score


def random_scorer(images: int, seed: int) -> Scorer:
    """Score at random; what a query gets depends on the seed and its number only."""

    def score(block: slice) -> np.ndarray:
        return np.stack(
            [
                np.random.default_rng((seed, row)).random(images, dtype=np.float32)
                for row in range(block.start, block.stop)
            ]
        )

    return score


def bm25_scorer(queries: Sequence[str], captions: Sequence[str]) -> Scorer:
    """Score by BM25 over the captions: English stop words dropped, words stemmed.

    Raises:
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    from core.errors import MissingDependencyError

    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise MissingDependencyError("bm25s PyStemmer", "The BM25 baseline") from error

    stemmer = Stemmer.Stemmer("english")

    def words(texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = bm25s.tokenize(
            list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        return found

    tokens = words(queries)
    corpus = words(captions)
    if not any(corpus):  # bm25s cannot index a corpus without a word
        return lambda block: np.zeros((block.stop - block.start, len(captions)), dtype=np.float32)
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    vocabulary = index.vocab_dict

    def score(block: slice) -> np.ndarray:
        scores = np.zeros((block.stop - block.start, len(captions)), dtype=np.float32)
        for row, query in enumerate(tokens[block]):
            known = [word for word in query if word in vocabulary]
            if known:
                scores[row] = index.get_scores(known)
        return scores

    return score


def order(scores: np.ndarray, depth: int) -> np.ndarray:
    """Return the first ``depth`` pictures of each row, best first; ties in picture order.

    Args:
        scores: Float (rows, n).
        depth: Capped at n.

    Returns:
        int (rows, min(depth, n)).
    """
    count = scores.shape[1]
    if depth >= count:
        return np.argsort(-scores, axis=1, kind="stable")
    candidates = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    candidates.sort(axis=1)
    found = np.take_along_axis(scores, candidates, axis=1)
    by_score = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(candidates, by_score, axis=1)


def ranks_of(scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the exact rank, from 1, of one picture in each row; ties in picture order.

    Args:
        scores: Float (rows, n).
        images: int (rows,), a picture of each row.

    Returns:
        int64 (rows,).
    """
    own = scores[np.arange(len(scores)), images][:, None]
    ranks: np.ndarray = 1 + (scores > own).sum(axis=1)
    equal = scores == own
    for row in np.flatnonzero(equal.sum(axis=1) > 1):
        ranks[row] += equal[row, : images[row]].sum()
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

    def best_rank(self, scores: np.ndarray, block: slice) -> np.ndarray:
        """Return the exact rank of the best placed relevant picture of each query: (rows,)."""
        pairs = slice(int(self.first[block.start]), int(self.first[block.stop]))
        rows = self.query[pairs] - block.start
        if len(rows) == len(scores):  # one each: no need to copy the scores
            return ranks_of(scores, self.image[pairs])
        ranks = ranks_of(scores[rows], self.image[pairs])
        best: np.ndarray = np.minimum.reduceat(ranks, self.first[block] - pairs.start)
        return best

    def best_scores(self, scores: np.ndarray, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the best score of a relevant and of another picture: two of float64 (rows,).

        Where every picture is relevant, the second is the first.
        """
        pairs = slice(int(self.first[block.start]), int(self.first[block.stop]))
        rows, images = self.query[pairs] - block.start, self.image[pairs]
        judged = scores[rows, images].astype(np.float64)
        right: np.ndarray = np.maximum.reduceat(judged, self.first[block] - pairs.start)
        others = scores.astype(np.float64)
        others[rows, images] = -np.inf
        wrong = others.max(axis=1)
        return right, np.where(np.isfinite(wrong), wrong, right)
