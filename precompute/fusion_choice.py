"""Which fusion of the lenses answers, decided without looking at the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.evaluation import FusionChoice, LensFigures, LensName, MetricName, PairedTest
from core.records import LENSES
from precompute.asked_queries import AskedQueries
from precompute.fusions import Fusion, Tuned, candidates, prepare, reciprocal_ranks, tune
from precompute.rankings import Scorer

Pick = Literal["fused", "fused_rrf", "fused_sum", "rrf_60"]

# Comparing all settings takes about a microsecond a score: 100 million are a minute and a half.
_TUNING_SCORES = 100_000_000
_COMPARED: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR")
_LENS_WORDS = {"captions": "the caption lens", "clip": "the CLIP lens"}


@dataclass(frozen=True, slots=True)
class TunedFusions:
    """The fusions that answer.

    Attributes:
        folds: Rows of queries, and the fusions that answer them; every query is in one fold.
        chosen: The fusions tuned on everything there was to tune on.
        tuned_on: That, in words.
    """

    folds: tuple[tuple[np.ndarray, Tuned], ...]
    chosen: Tuned
    tuned_on: str

    @classmethod
    def choose(cls, asked: AskedQueries, tuning: AskedQueries | None, seed: int) -> TunedFusions:
        """Tune on another gallery's queries, or on each half of the pictures for the other half.

        Args:
            asked: What the fusions will answer.
            tuning: Another gallery's queries; None splits the pictures of ``asked`` in two.
            seed: Of the split.
        """
        tried = candidates()
        source = tuning or asked
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
        )
        chosen = tune(tried, found)
        everything = np.arange(len(asked))
        if tuning is not None:
            where = f"{tuning.gallery.name}: {len(tuning.gallery)} images, {len(sample)} queries"
            return cls(((everything, chosen),), chosen, where)
        labels = np.unique(asked.clusters)
        half = generator.permutation(labels)[: len(labels) // 2]
        in_half = np.isin(asked.clusters, half)
        sampled_in_half = in_half[sample]
        if sampled_in_half.all() or not sampled_in_half.any():
            return cls(((everything, chosen),), chosen, "these very queries, too few to split")
        return cls(
            (
                (everything[in_half], tune(tried, found[:, ~sampled_in_half])),
                (everything[~in_half], tune(tried, found[:, sampled_in_half])),
            ),
            chosen,
            "each half of this gallery's pictures for the queries of the other half; the setting "
            "named is the one that all of them together choose",
        )

    def scorer(self, asked: AskedQueries, pick: Pick) -> Scorer:
        """Score each query by the fusion of its fold."""
        lenses = [asked.scorer(lens) for lens in LENSES]
        by_fold = [(rows, _picked(tuned, pick)) for rows, tuned in self.folds]

        def score(block: slice) -> np.ndarray:
            seen = [lens(block) for lens in lenses]
            fused = np.empty(seen[0].shape)
            for rows, fusion in by_fold:
                inside = rows[(rows >= block.start) & (rows < block.stop)] - block.start
                if len(inside):
                    captions, clip = (prepare(each[inside], fusion.kind) for each in seen)
                    fused[inside] = fusion.fuse(captions, clip)
            return fused

        return score

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
        if below:
            gap = abs(figures["captions"].mrr - figures["clip"].mrr)
            named = " and ".join(
                f"{_LENS_WORDS[lens]} in {', '.join(m for each, m in below if each == lens)}"
                for lens in LENSES
                if any(each == lens for each, _ in below)
            )
            better = max(LENSES, key=lambda lens: figures[lens].mrr)
            test = next(
                t for t in tests if (t.first, t.second, t.metric) == ("fused", better, "MRR")
            )
            verdict = (
                f"Fusion does not beat {named}. The two lenses are {gap:.3f} apart in MRR, so the "
                "weaker one brings more wrong pictures to the first ranks than right ones. Against "
                f"{_LENS_WORDS[better]} fusion changes MRR by {test.difference:+.3f} "
                f"(p = {test.p_value:.2f})."
            )
        else:
            largest = max(test.p_value for test in tests if test.first == "fused")
            verdict = (
                "Fusion beats both lenses in R@1, R@5, R@10 and MRR; the largest p-value of these "
                f"eight comparisons is {largest:.4f}."
            )
        return FusionChoice(
            method=str(self.chosen.best),
            rrf=str(self.chosen.rrf),
            weighted_sum=str(self.chosen.weighted_sum),
            tuned_on=self.tuned_on,
            tuning_mrr={str(fusion): round(mrr, 4) for fusion, mrr in self.chosen.mrr.items()},
            beats_both=not below,
            verdict=verdict,
        )


def _picked(tuned: Tuned, pick: Pick) -> Fusion:
    if pick == "fused":
        return tuned.best
    if pick == "rrf_60":
        return Fusion("rrf", k=60)
    return tuned.rrf if pick == "fused_rrf" else tuned.weighted_sum
