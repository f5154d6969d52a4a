"""What each lens made of all queries: ranks, figures, intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.gallery.figures.metrics_file import LensFigures, LensName, MetricName, PairedTest
from core.records import LENSES, Lens
from precompute.evaluate import resampling
from precompute.evaluate.fusion.fusion_choice import PICKS, TunedFusions
from precompute.evaluate.fusion.fusions import BothLenses
from precompute.evaluate.metrics.retrieval_metrics import RETRIEVAL_METRICS, retrieval
from precompute.evaluate.queries import AskedQueries
from precompute.evaluate.rankings import Scorer, ranks_of, scored

SHOWN = 10
"""How many pictures of each query are kept after its figures are."""

TESTED: tuple[tuple[LensName, LensName], ...] = (
    ("captions", "clip"),
    ("fused", "captions"),
    ("fused", "clip"),
    ("fused", "clip_corrected"),
    ("clip_corrected", "clip"),
    ("clip_reranked", "clip"),
    ("clip_reranked", "fused"),
    ("fused_text", "fused"),
    ("captions", "bm25"),
    ("captions", "captions_first"),
    ("captions_mean", "captions_best"),
)
TESTED_METRICS: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")


@dataclass(frozen=True, slots=True)
class LensResult:
    """What one lens made of all queries.

    Attributes:
        values: float (queries, metrics), in the order of ``RETRIEVAL_METRICS``.
        ranks: int (queries,), exact rank of the best placed relevant picture.
    """

    values: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True, slots=True)
class LensScores:
    """What the scores of one of the two lenses look like.

    Attributes:
        first: int (queries, 10 or fewer), pictures found, best first.
        right: float32 (queries,), score of the best placed relevant picture.
        wrong: float32 (queries,), score of the best placed other picture.
    """

    first: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


def rank_all(
    asked: AskedQueries, fusions: TunedFusions, baselines: Mapping[LensName, Scorer]
) -> tuple[dict[LensName, LensResult], dict[Lens, LensScores]]:
    """Rank all pictures for every query by both lenses, their fusions and the baselines."""
    queries, images, relevant = len(asked), len(asked.gallery), asked.relevant
    names: tuple[LensName, ...] = (*LENSES, *PICKS, *baselines)
    ranks = {name: np.empty(len(relevant.image), dtype=np.int64) for name in names}
    seen = {
        lens: LensScores(
            first=np.empty((queries, min(SHOWN, images)), dtype=np.int64),
            right=np.empty(queries, dtype=np.float32),
            wrong=np.empty(queries, dtype=np.float32),
        )
        for lens in LENSES
    }
    scorers = [*(asked.scorer(lens) for lens in LENSES), *baselines.values()]
    for part, (captions, clip, *others) in scored(scorers, queries, images):
        both = BothLenses(captions, clip, 0.0 if asked.owed is None else asked.owed)
        pairs, (rows, pictures) = relevant.pairs(part), relevant.inside(part)
        for lens, own in both.scores.items():
            ranks[lens][pairs] = ranks_of(own, rows, pictures)
            seen[lens].first[part] = both.first[lens][:, :SHOWN]
            seen[lens].right[part], seen[lens].wrong[part] = relevant.best_scores(own, part)
        for pick, found in fusions.ranks(both, part, rows, pictures).items():
            ranks[pick][pairs] = found
        for name, own in zip(baselines, others, strict=True):
            ranks[name][pairs] = ranks_of(own, rows, pictures)
    placed = [each for name in names for each in relevant.placed(ranks[name])]
    values = np.stack(list(retrieval(placed).values()), axis=1)
    everything = slice(0, queries)
    return {
        name: LensResult(own, relevant.best(ranks[name], everything))
        for name, own in zip(names, np.split(values, len(names)), strict=True)
    }, seen


def figures(
    results: Mapping[LensName, LensResult], asked: AskedQueries, *, resamples: int, seed: int
) -> dict[LensName, LensFigures]:
    """Return means and 95 % intervals of every lens, from the same resamples for all."""
    names = RETRIEVAL_METRICS
    bounds = resampling.mean_intervals(
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
        intervals["median_rank"] = resampling.median_interval(
            each.ranks, asked.clusters, resamples=resamples, seed=seed
        )
        size = {"images": len(asked.gallery), "queries": len(asked)}
        found[lens] = LensFigures.model_validate(values | size | {"ci95": intervals})
    return found


def paired_tests(
    results: Mapping[LensName, LensResult], asked: AskedQueries, *, flips: int, seed: int
) -> tuple[PairedTest, ...]:
    """Compare the pairs of :data:`TESTED` that were measured in :data:`TESTED_METRICS`."""
    compared = [(one, two) for one, two in TESTED if one in results and two in results]
    columns = [RETRIEVAL_METRICS.index(name) for name in TESTED_METRICS]
    differences = np.concatenate(
        [results[a].values[:, columns] - results[b].values[:, columns] for a, b in compared],
        axis=1,
    )
    p_values = resampling.paired_p_values(differences, asked.clusters, flips=flips, seed=seed)
    named = [(one, two, metric) for one, two in compared for metric in TESTED_METRICS]
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
