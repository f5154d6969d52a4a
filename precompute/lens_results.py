"""What each lens made of all queries: ranks, figures, intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.evaluation import LensFigures, LensName, MetricName, PairedTest
from precompute import metrics, statistics
from precompute.asked_queries import AskedQueries
from precompute.rankings import DEPTH, Scorer, blocks, order

SHOWN = 10
"""How many pictures of each query are kept after its figures are."""

TESTED: tuple[tuple[LensName, LensName], ...] = (
    ("captions", "clip"),
    ("fused", "captions"),
    ("fused", "clip"),
    ("captions", "bm25"),
)
TESTED_METRICS: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")


@dataclass(frozen=True, slots=True)
class LensResult:
    """What one lens made of all queries.

    Attributes:
        values: float (queries, metrics), in the order of ``metrics.RETRIEVAL_METRICS``.
        ranks: int (queries,), exact rank of the best placed relevant picture.
        first: int (queries, 10 or fewer), pictures found, best first.
        right: float (queries,), score of the best placed relevant picture.
        wrong: float (queries,), score of the best placed other picture.
    """

    values: np.ndarray
    ranks: np.ndarray
    first: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


def rank_all(asked: AskedQueries, scorer: Scorer) -> LensResult:
    """Rank all pictures for every query, block by block."""
    queries, images = len(asked), len(asked.gallery)
    result = LensResult(
        values=np.zeros((queries, len(metrics.RETRIEVAL_METRICS))),
        ranks=np.zeros(queries, dtype=np.int64),
        first=np.zeros((queries, min(SHOWN, images)), dtype=np.int64),
        right=np.zeros(queries),
        wrong=np.zeros(queries),
    )
    for block in blocks(queries, images):
        scores = scorer(block)
        first = order(scores, DEPTH)
        values = metrics.retrieval(first, [q.relevant for q in asked.queries.queries[block]])
        for column, name in enumerate(metrics.RETRIEVAL_METRICS):
            result.values[block, column] = values[name]
        result.ranks[block] = asked.relevant.best_rank(scores, block)
        result.first[block] = first[:, :SHOWN]
        result.right[block], result.wrong[block] = asked.relevant.best_scores(scores, block)
    return result


def figures(
    results: Mapping[LensName, LensResult], asked: AskedQueries, *, resamples: int, seed: int
) -> dict[LensName, LensFigures]:
    """Return means and 95 % intervals of every lens, from the same resamples for all."""
    names = metrics.RETRIEVAL_METRICS
    bounds = statistics.mean_intervals(
        np.concatenate([each.values for each in results.values()], axis=1),
        asked.clusters,
        resamples=resamples,
        seed=seed,
    ).reshape(len(results), len(names), 2)
    found: dict[LensName, LensFigures] = {}
    for (lens, each), own in zip(results.items(), bounds, strict=True):
        values = dict(zip(names, each.values.mean(axis=0).round(6).tolist(), strict=True))
        intervals = dict(zip(names, own.round(6).tolist(), strict=True))
        if not asked.queries.several_relevant:  # it would be MRR under another name
            del values["mAP"], intervals["mAP"]
        values["median_rank"] = float(np.median(each.ranks))
        intervals["median_rank"] = statistics.median_interval(
            each.ranks, asked.clusters, resamples=resamples, seed=seed
        )
        size = {"images": len(asked.gallery), "queries": len(asked)}
        found[lens] = LensFigures.model_validate(values | size | {"ci95": intervals})
    return found


def paired_tests(
    results: Mapping[LensName, LensResult], asked: AskedQueries, *, flips: int, seed: int
) -> tuple[PairedTest, ...]:
    """Compare the pairs of :data:`TESTED` in each of :data:`TESTED_METRICS`."""
    columns = [metrics.RETRIEVAL_METRICS.index(name) for name in TESTED_METRICS]
    differences = np.concatenate(
        [results[one].values[:, columns] - results[two].values[:, columns] for one, two in TESTED],
        axis=1,
    )
    p_values = statistics.paired_p_values(differences, asked.clusters, flips=flips, seed=seed)
    named = [(one, two, metric) for one, two in TESTED for metric in TESTED_METRICS]
    return tuple(
        PairedTest(
            first=one,
            second=two,
            metric=metric,
            difference=round(float(difference), 6),
            p_value=round(float(p_value), 6),
        )
        for (one, two, metric), difference, p_value in zip(
            named, differences.mean(axis=0), p_values, strict=True
        )
    )
