"""What ``metrics.json`` of a gallery holds: the figures of both lenses and what they rest on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import GalleryError
from core.gallery.figures.written_kinds import KindName, KindTest

if TYPE_CHECKING:
    from core.gallery.reader import Gallery

METRICS_FILE = "metrics.json"

Interval = tuple[float, float]

LensName = Literal[
    "captions",
    "clip",
    "clip_corrected",
    "clip_reranked",
    "fused",
    "fused_rrf",
    "fused_sum",
    "rrf_60",
    "text",
    "fused_text",
    "captions_first",
    "captions_mean",
    "captions_best",
    "bm25",
    "random",
]
"""Of a gallery with several captions an image ``captions`` is measured as the gallery indexes them,
and beside it each image's first caption alone, the mean of all, and the best one for the query.

``fused`` is what Compare shows if that was chosen for the models on other photos, else whichever
of ``fused_rrf`` and ``fused_sum`` won where fusion was tuned; ``rrf_60`` is reciprocal rank fusion
with k = 60 and equal weights, which needs no tuning. ``clip_corrected`` is CLIP alone, less what
pictures owe to being hubs (:mod:`core.models.clip.hubs`)."""

MetricName = Literal["R@1", "R@5", "R@10", "MRR", "mAP", "nDCG@10", "median_rank"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class LensFigures(_Frozen):
    """How well one way to search finds the right picture.

    Attributes:
        r_at_1: Share of the queries with a relevant picture first, in [0, 1].
        r_at_5: Share with one among the first five.
        r_at_10: Share with one among the first ten.
        mrr: Mean of 1 / rank of the first relevant picture.
        mean_ap: Mean average precision; None where every query has one relevant picture, since
            it then equals ``mrr``.
        ndcg_at_10: Normalised discounted cumulative gain of the first ten.
        median_rank: Median rank of the first relevant picture, from 1.
        ci95: 95 % bootstrap interval by metric name, resampled over pictures.
        images: Pictures that were searched.
        queries: Queries asked.
    """

    r_at_1: float = Field(alias="R@1")
    r_at_5: float = Field(alias="R@5")
    r_at_10: float = Field(alias="R@10")
    mrr: float = Field(alias="MRR")
    mean_ap: float | None = Field(None, alias="mAP")
    ndcg_at_10: float = Field(alias="nDCG@10")
    median_rank: float
    ci95: dict[MetricName, Interval]
    images: int
    queries: int

    def value(self, metric: MetricName) -> float | None:
        """Return one figure by the name it has in the file."""
        found: float | None = self.model_dump(by_alias=True)[metric]
        return found


class PairedTest(_Frozen):
    """Two lenses compared on the same queries.

    Attributes:
        first: Name of the one lens.
        second: Name of the other.
        metric: What was compared.
        difference: ``first`` minus ``second``, as a fraction.
        p_value: Two-sided, from a randomisation that flips whole pictures.
    """

    first: LensName
    second: LensName
    metric: MetricName
    difference: float
    p_value: float


class FusionChoice(_Frozen):
    """How the two lenses were joined, and where that was decided.

    Attributes:
        method: What won, in words, e.g. ``"z-score sum, caption weight 0.35"``.
        rrf: The best reciprocal-rank fusion, in words.
        weighted_sum: The best weighted sum, in words.
        tuned_on: The pictures and queries that decided.
        tuning_mrr: MRR there, by method in words.
        beats_both: Whether ``fused`` is above both lenses in R@1, R@5, R@10 and MRR here, by more
            than luck.
        verdict: One or two sentences: whether fusion helps, and why not if it does not.
    """

    method: str
    rrf: str
    weighted_sum: str
    tuned_on: str
    tuning_mrr: dict[str, float]
    beats_both: bool
    verdict: str


class CaptionQuality(_Frozen):
    """How close the generated captions are to the references.

    Attributes:
        images: Captions that were scored.
        bleu_4: Corpus BLEU-4 in [0, 100].
        cider: CIDEr-D, 1.0 being about as close as people are to each other on COCO; None where
            the package that works it out is not installed.
        clip_score: Mean of 2.5 max(cosine, 0), by the gallery's own CLIP.
        clip_model: Which CLIP that was: scores of different ones do not compare.
        flagged: Share of captions with a flag other than ``unsure``, in [0, 1].
        distinct: Different captions divided by captions, in [0, 1].
    """

    images: int
    bleu_4: float
    cider: float | None = None
    clip_score: float
    clip_model: str
    flagged: float
    distinct: float


class IndexPoint(_Frozen):
    """One way to search one index, measured one query at a time.

    Attributes:
        kind: ``flat`` or ``ivf``.
        nprobe: Clusters visited; None for ``flat``.
        recall: Share of flat's first ten that were found.
        p50_ms: Median latency of one search, without encoding.
        p95_ms: 95th percentile.
        bytes_per_vector: Size of the index file divided by its vectors.
    """

    kind: Literal["flat", "ivf"]
    nprobe: int | None = None
    recall: float
    p50_ms: float
    p95_ms: float
    bytes_per_vector: float


class IndexCurve(_Frozen):
    """Flat against IVF for one lens, or for vectors made up to a size the gallery lacks.

    Attributes:
        vectors: How many are indexed.
        dim: Length of each.
        nlist: Clusters of the IVF index.
        queries: How many were timed.
        points: Flat first, then IVF by rising nprobe.
    """

    vectors: int
    dim: int
    nlist: int
    queries: int
    points: tuple[IndexPoint, ...]


class Histogram(_Frozen):
    """Scores of the right picture against those of the best wrong one, in shared bins.

    Attributes:
        edges: Bin edges, one more than bins.
        right: Share of the queries whose right picture scores in the bin.
        wrong: Share of the queries whose best wrong picture does.
    """

    edges: tuple[float, ...]
    right: tuple[float, ...]
    wrong: tuple[float, ...]


class QueryGroup(_Frozen):
    """The queries of one length or content.

    Attributes:
        group: ``"length"`` or ``"content"``.
        name: E.g. ``"7-9 words"`` or ``"a colour"``.
        queries: How many.
        r_at_5: R@5 by lens.
        only_captions: Share that only the caption lens solves (right picture in its first five).
        only_clip: Share that only the CLIP lens solves.
        overlap_at_10: Mean share of their first ten pictures that the two lenses have in common.
    """

    group: Literal["length", "content"]
    name: str
    queries: int
    r_at_5: dict[LensName, float]
    only_captions: float
    only_clip: float
    overlap_at_10: float


class KindFigures(_Frozen):
    """Queries of one kind, written for these pictures, and how many each lens answers rightly.

    Attributes:
        kind: What they are about.
        test: What is right: a relevant picture among the first five; of two pictures, the relevant
            one placed before the other; of two texts with the same words, the true one scoring
            higher for the picture.
        queries: How many.
        right: How many are answered rightly, by lens.
        chance: How many an order or a choice at random gets right, on average.
    """

    kind: KindName
    test: KindTest
    queries: int
    right: dict[LensName, int]
    chance: float


class SolvedByOne(_Frozen):
    """A query that one lens solves and the other does not.

    Attributes:
        winner: The lens that has the right picture among its first five.
        query: Its text.
        image_id: The right picture.
        caption: What the captioner says of it; of several captions, the nearest.
        captions_rank: Where the caption lens has it.
        clip_rank: Where the CLIP lens has it.
        shown_instead: The picture that the other lens has first.
        shown_caption: What the captioner says of that one, likewise.
    """

    winner: Literal["captions", "clip"]
    query: str
    image_id: str
    caption: str
    captions_rank: int
    clip_rank: int
    shown_instead: str
    shown_caption: str


class MeasuredModel(_Frozen):
    """A model behind the figures."""

    name: str
    revision: str
    precision: str


class Provenance(_Frozen):
    """What every figure of the file rests on.

    Attributes:
        manifest_sha256: Of the ``manifest.json`` that was measured; binds figures to a gallery.
        source: Where the pictures come from.
        split: Which part of it, or ``""``.
        caption_origin: ``generated``, or ``column:NAME``.
        query_origin: Where queries and relevance come from.
        models: Sentence encoder, CLIP and captioner.
        seed: Of everything drawn.
        resamples: Of each bootstrap interval.
        flips: Random flips of each test.
        machine: Processor, cores, Python, numpy.
        program: Versions of the libraries that measured.
        command: What to run for the same figures.
        written_sha256: Of the queries that were written for its pictures; "" for none.
    """

    manifest_sha256: str
    source: str
    split: str
    caption_origin: str
    query_origin: str
    models: dict[str, MeasuredModel]
    seed: int
    resamples: int
    flips: int
    machine: str
    program: str
    command: str
    written_sha256: str = ""


class Metrics(_Frozen):
    """Everything that one evaluation found; the content of ``metrics.json``.

    Attributes:
        format: Version of this layout.
        gallery: Its name.
        images: Pictures that were searched.
        queries: Queries asked.
        several_relevant: Whether a query may have more than one relevant picture.
        lenses: Figures by lens, the baselines among them.
        tests: Paired tests between the lenses.
        fusion: How ``fused`` joins the two.
        captions: Quality of the generated captions; None where they were given.
        index: Flat against IVF, by lens, and ``"synthetic"`` for a size beyond the gallery's.
        groups: The lenses by length and content of the query.
        kinds: The lenses by what was asked on purpose; empty where nothing was written for it.
        solved_by_one: Examples.
        scores: Score distributions by lens.
        notes: What a reader must know to read the figures rightly.
        seconds: Time spent by stage; differs from run to run, as do latencies.
        provenance: What the figures rest on.
    """

    format: Literal[1] = 1
    gallery: str
    images: int
    queries: int
    several_relevant: bool
    lenses: dict[LensName, LensFigures]
    tests: tuple[PairedTest, ...]
    fusion: FusionChoice
    captions: CaptionQuality | None = None
    index: dict[str, IndexCurve]
    groups: tuple[QueryGroup, ...]
    kinds: tuple[KindFigures, ...] = ()
    solved_by_one: tuple[SolvedByOne, ...]
    scores: dict[str, Histogram]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    provenance: Provenance

    def to_json(self) -> str:
        """Return the file's text: keys as the literature has them (``"R@1"``), None left out."""
        return (
            json.dumps(
                self.model_dump(by_alias=True, exclude_none=True), ensure_ascii=False, indent=1
            )
            + "\n"
        )


def read_metrics(gallery: Gallery) -> Metrics | str:
    """Return the figures of a gallery, or one sentence on why there are none.

    ``metrics.json`` is written after the gallery and is not among the files that the manifest
    hashes: it names the manifest it was measured on instead, and is refused if that is another.
    """
    try:
        content = gallery.read_beside(METRICS_FILE)
    except GalleryError:
        return "The figures of this gallery cannot be read."
    if content is None:
        return "This gallery has not been evaluated."
    try:
        metrics = Metrics.model_validate_json(content.decode())
    except UnicodeDecodeError:
        return "The figures of this gallery cannot be read."
    except ValidationError:
        return "The figures of this gallery were written in another format or are damaged."
    if metrics.provenance.manifest_sha256 != gallery.manifest_sha256:
        return "The figures beside this gallery were measured on another build of it."
    return metrics
