"""How well queries find their pictures: a thin layer over ir-measures, and plain recall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import MissingDependencyError

if TYPE_CHECKING:
    from precompute.sources.pairs import Pairs

RETRIEVAL_METRICS = ("R@1", "R@5", "R@10", "MRR", "mAP", "nDCG@10")

Placed = tuple[tuple[int, int], ...]
"""The (rank, grade) of each picture that is relevant to a query; rank 0 stands for not found."""

BATCH_PICTURES = 100_000
"""Pictures that the metrics' library holds at once, about."""


def retrieval(placed: Sequence[Placed]) -> dict[str, np.ndarray]:
    """Return every metric of :data:`RETRIEVAL_METRICS` for each query, float64 (queries,).

    R@k is the share of queries with a relevant picture among the first k, as image-text
    retrieval reports it (trec_eval's ``success``); pictures that nobody judged count as wrong.

    Args:
        placed: For each query the (rank, grade) of its relevant pictures: ranks from 1, or 0 for
            a picture that was not found; grades of 1 or more.

    Raises:
        MissingDependencyError: ir-measures is not installed.
    """
    try:
        from ir_measures import AP, RR, Success, evaluator, nDCG
    except ImportError as error:
        raise MissingDependencyError("ir-measures", "Evaluation") from error

    measures = (Success @ 1, Success @ 5, Success @ 10, RR, AP, nDCG @ 10)
    column = {measure: number for number, measure in enumerate(measures)}
    # A figure depends on nothing but these ranks and grades, which many queries share.
    row_of = {each: row for row, each in enumerate(dict.fromkeys(placed))}
    distinct = np.zeros((len(row_of), len(measures)))
    for batch in _batches(row_of):
        judged: dict[str, dict[str, int]] = {}
        run: dict[str, dict[str, float]] = {}
        for each in batch:
            query = str(row_of[each])
            judged[query] = {f"right {number}": grade for number, (_, grade) in enumerate(each)}
            # What comes after the last relevant picture changes no metric, but costs time.
            ranking = [f"wrong {rank}" for rank in range(max(1, *(rank for rank, _ in each)))]
            for number, (rank, _) in enumerate(each):
                if rank:
                    ranking[rank - 1] = f"right {number}"
            run[query] = {name: -float(rank) for rank, name in enumerate(ranking)}
        for metric in evaluator(measures, judged).iter_calc(run):
            distinct[int(metric.query_id), column[metric.measure]] = metric.value
    values = distinct[[row_of[each] for each in placed]]
    return {name: values[:, number] for number, name in enumerate(RETRIEVAL_METRICS)}


def _batches(placed: Iterable[Placed]) -> Iterator[list[Placed]]:
    """Cut queries so that the library never holds more than some 100,000 pictures at once."""
    batch: list[Placed] = []
    pictures = 0
    for each in placed:
        batch.append(each)
        pictures += len(each) + max(rank for rank, _ in each)
        if pictures > BATCH_PICTURES:
            yield batch
            batch, pictures = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Recall:
    """Text-to-image recall.

    Attributes:
        source: The source and split.
        images: Images that were ranked.
        queries: Captions that were searched.
        at_1: Share of the queries, in percent, whose own image came first.
        at_5: Likewise, among the first five.
        at_10: Likewise, among the first ten.
    """

    source: str
    images: int
    queries: int
    at_1: float
    at_5: float
    at_10: float

    def __str__(self) -> str:
        """Return one line for a terminal."""
        return (
            f"{self.source}: R@1 {self.at_1:.1f} / R@5 {self.at_5:.1f} / R@10 {self.at_10:.1f} % "
            f"({self.images} images, {self.queries} queries)"
        )

    def as_json(self) -> dict[str, object]:
        """Return the figures as JSON values."""
        return asdict(self)


def recall(source: str, images: np.ndarray, texts: np.ndarray, owners: Sequence[int]) -> Recall:
    """Rank all images for every text by inner product; ties count against the own image.

    Args:
        source: Name for the report.
        images: (n, dim).
        texts: (q, dim).
        owners: For each text, the row of its own image.
    """
    scores = texts @ images.T
    own = scores[np.arange(len(texts)), np.asarray(owners)]
    ranks = (scores >= own[:, None]).sum(axis=1)
    at_1, at_5, at_10 = (round(float((ranks <= k).mean()) * 100, 2) for k in (1, 5, 10))
    return Recall(source, len(images), len(texts), at_1, at_5, at_10)


def owners_of(pairs: Pairs) -> list[int]:
    """Return, for every caption in order, the row of its image."""
    return [row for row, captions in enumerate(pairs.captions) for _ in captions]
