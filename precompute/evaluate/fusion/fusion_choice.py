"""Which fusion of the lenses answers, decided without looking at the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from core.gallery.figures.metrics_file import (
    FusionChoice,
    LensFigures,
    LensName,
    MetricName,
    PairedTest,
)
from core.records import LENSES, PLAIN_RRF, Fusion
from precompute.evaluate.fusion.fusions import (
    BothLenses,
    Tuned,
    candidates,
    reciprocal_ranks,
    tune,
)
from precompute.evaluate.queries import AskedQueries

Pick = Literal["fused", "fused_rrf", "fused_sum", "rrf_60"]
PICKS: tuple[Pick, ...] = get_args(Pick)

# Comparing all settings takes about a microsecond a score: 100 million are a minute and a half.
_TUNING_SCORES = 100_000_000
_COMPARED: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")
_SURE = 0.05
"""The p-value under which a difference is usually taken to be no luck."""

_ELSEWHERE = "other photos, for these models; it is the one that Compare shows"
_LENS_WORDS = {"captions": "the caption lens", "clip": "the CLIP lens"}


def _in_words(comparisons: Sequence[tuple[LensName, MetricName]]) -> str:
    return " and ".join(
        f"{words} in {', '.join(metric for each, metric in comparisons if each == lens)}"
        for lens, words in _LENS_WORDS.items()
        if any(each == lens for each, _ in comparisons)
    )


@dataclass(frozen=True, slots=True)
class TunedFusions:
    """The fusions that answer.

    Attributes:
        folds: The fusions that answer the queries of each fold.
        fold_of: int (queries,), which fold each query is in.
        chosen: The fusions tuned on everything there was to tune on.
        tuned_on: Where ``fused`` was chosen, in words.
        served: What ``fused`` is, if it was chosen for these models on other photos before: what
            Compare shows. None takes the better one of each fold.
    """

    folds: tuple[Tuned, ...]
    fold_of: np.ndarray
    chosen: Tuned
    tuned_on: str
    served: Fusion | None = None

    @classmethod
    def choose(
        cls,
        asked: AskedQueries,
        tuning: AskedQueries | None,
        seed: int,
        served: Fusion | None = None,
    ) -> TunedFusions:
        """Tune on another gallery's queries, or on each half of the pictures for the other half.

        Args:
            asked: What the fusions will answer.
            tuning: Another gallery's queries; None splits the pictures of ``asked`` in two.
            seed: Of the split.
            served: What Compare shows, which is ``fused`` unless ``tuning`` is given; None, or
                one by rank, was not chosen by anybody.
        """
        source = tuning or asked
        tried = candidates(corrected=source.owed is not None)
        if tuning is not None or (served is not None and served.family == "rrf"):
            served = None
        generator = np.random.default_rng(seed)
        most = max(1, _TUNING_SCORES // max(1, len(source.gallery)))
        sample = np.sort(generator.permutation(len(source))[:most])
        decided = source.only(sample)
        found = reciprocal_ranks(
            tried,
            decided.scorer("captions"),
            decided.scorer("clip"),
            decided.relevant,
            len(source.gallery),
            0.0 if source.owed is None else source.owed,
        )
        chosen = tune(tried, found)
        one_fold = np.zeros(len(asked), dtype=np.int64)
        if tuning is not None:
            where = f"{tuning.gallery.name}: {len(tuning.gallery)} images, {len(sample)} queries"
            return cls((chosen,), one_fold, chosen, where)
        labels = np.unique(asked.clusters)
        half = generator.permutation(labels)[: len(labels) // 2]
        in_half = np.isin(asked.clusters, half)
        sampled_in_half = in_half[sample]
        if sampled_in_half.all() or not sampled_in_half.any():
            where = "these very queries, too few to split"
            return cls((chosen,), one_fold, chosen, _ELSEWHERE if served else where, served)
        where = (
            "each half of this gallery's pictures for the queries of the other half; the setting "
            "named is the one that all of them together choose"
        )
        return cls(
            (tune(tried, found[:, sampled_in_half]), tune(tried, found[:, ~sampled_in_half])),
            in_half.astype(np.int64),
            chosen,
            _ELSEWHERE if served else where,
            served,
        )

    def ranks(
        self, lenses: BothLenses, block: slice, rows: np.ndarray, images: np.ndarray
    ) -> dict[Pick, np.ndarray]:
        """Return the ranks of some pictures under each pick, which its query's fold has made.

        Args:
            lenses: What the lenses make of a block of queries.
            block: Which queries.
            rows: int (pairs,), rising, from 0 in the block.
            images: int (pairs,), a picture of each of these rows.

        Returns:
            int64 (pairs,) for each pick.
        """
        found = {pick: np.empty(len(rows), dtype=np.int64) for pick in PICKS}
        fold_of = self.fold_of[block][rows]
        for fold, tuned in enumerate(self.folds):
            mine = np.flatnonzero(fold_of == fold)
            if not len(mine):
                continue
            picked = {pick: _picked(tuned, pick) for pick in PICKS}
            if self.served is not None:
                picked["fused"] = self.served
            ranks = {
                fusion: lenses.ranks(fusion, rows[mine], images[mine])
                for fusion in dict.fromkeys(picked.values())
            }
            for pick, fusion in picked.items():
                found[pick][mine] = ranks[fusion]
        return found

    def describe(
        self, figures: Mapping[LensName, LensFigures], tests: Sequence[PairedTest]
    ) -> FusionChoice:
        """Say what was chosen, and whether it beats both lenses."""
        below = [
            (lens, metric)
            for lens in LENSES
            for metric in _COMPARED
            if (figures["fused"].value(metric) or 0) <= (figures[lens].value(metric) or 0)
        ]
        of_fusion = {
            (t.second, t.metric): t for t in tests if t.first == "fused" and t.second in LENSES
        }
        largest = max(test.p_value for test in of_fusion.values())
        if below:
            gap = abs(figures["captions"].mrr - figures["clip"].mrr)
            better = max(LENSES, key=lambda lens: figures[lens].mrr)
            test = of_fusion[better, "MRR"]
            luck = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
            verdict = (
                f"Fusion does not beat {_in_words(below)}. The two lenses are {gap:.3f} apart in "
                f"MRR. Against {_LENS_WORDS[better]} fusion changes MRR by {test.difference:+.3f} "
                f"({luck})."
            )
        elif largest < _SURE:
            verdict = (
                "Fusion beats both lenses in R@1, R@5, R@10 and MRR; the largest p-value of these "
                f"eight comparisons is {largest:.4f}."
            )
        else:
            lucky = [key for key, test in of_fusion.items() if test.p_value >= _SURE]
            verdict = (
                "Fusion is ahead of both lenses in R@1, R@5, R@10 and MRR, but that may be luck "
                f"against {_in_words(lucky)} (p up to {largest:.4f})."
            )
        return FusionChoice(
            method=str(self.served or self.chosen.best),
            rrf=str(self.chosen.rrf),
            weighted_sum=str(self.chosen.weighted_sum),
            tuned_on=self.tuned_on,
            tuning_mrr={str(fusion): round(mrr, 4) for fusion, mrr in self.chosen.mrr.items()},
            beats_both=not below and largest < _SURE,
            verdict=verdict,
        )


def _picked(tuned: Tuned, pick: Pick) -> Fusion:
    if pick == "fused":
        return tuned.best
    if pick == "rrf_60":
        return PLAIN_RRF
    return tuned.rrf if pick == "fused_rrf" else tuned.weighted_sum
