"""The evaluation job: a gallery and its queries in, all figures out."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from core.config import ProfileName
from core.errors import MissingDependencyError, SourceError
from core.gallery.figures.metrics_file import (
    CaptionQuality,
    IndexCurve,
    LensName,
    MeasuredModel,
    Metrics,
    Provenance,
)
from core.gallery.layout import embeddings_file, index_file
from core.gallery.manifest import Manifest
from core.gallery.reader import Gallery
from core.models.choose import with_clip, with_matcher
from core.models.profiles import PROFILES, Models, Profile
from core.records import LENSES, SAMPLE_NAME, UNSURE, IndexKind
from precompute.evaluate import index_curve
from precompute.evaluate.fusion.fusion_choice import TunedFusions
from precompute.evaluate.lenses import lens_results
from precompute.evaluate.lenses.lens_differences import Outcome, groups, histogram, solved_by_one
from precompute.evaluate.lenses.reranked import reranked_scorer
from precompute.evaluate.lenses.text_lens import text_scorers
from precompute.evaluate.metrics import caption_metrics
from precompute.evaluate.qrels import QuerySet, from_flickr8k_judgements, from_references, from_trec
from precompute.evaluate.queries import AskedQueries
from precompute.evaluate.rankings import DEPTH, Scorer, bm25_scorer, random_scorer
from precompute.evaluate.written_queries.kind_figures import kind_figures
from precompute.evaluate.written_queries.written import written_sha256
from precompute.packages import versions_of

logger = logging.getLogger("twolens")

RESAMPLES = 2000
FLIPS = 10_000
SYNTHETIC_VECTORS = 20_000
_CURVE_QUERIES = 500
_BY_THE_TEAM = "the captions that the TwoLens team wrote of these photos"
_TEAM_NOTE = (
    "The team that made TwoLens chose these photos and wrote the captions that are asked for here, "
    "before any was generated. Photos chosen and described by others are in docs/evaluate.md."
)
_LIBRARIES = ("ir-measures", "pytrec-eval-terrier", "bm25s", "sacrebleu", "pycocoevalcap", "numpy")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate, and against what.

    Attributes:
        folder: The gallery.
        profile: The models that embed the queries; None takes the one that built the gallery.
        clip: CLIP model in place of the profile's, see :func:`core.models.choose.clip_spec`.
        device: Where they run.
        tune_on: Another gallery, with references, on which fusion is tuned; None tunes on each
            half of the pictures for the other half.
        qrels: TREC relevance labels, or None.
        queries: The texts that go with ``qrels``.
        judgements: Folder of Flickr8k's human judgements, or None.
        rerank: Model that ranks CLIP's first pictures anew, see
            :func:`core.models.choose.with_matcher`; None measures none.
        seed: Of everything drawn.
        resamples: Of each bootstrap interval.
        flips: Random flips of each test.
        synthetic_vectors: Size of the made-up index that is measured beside the gallery's; 0
            leaves it out.
        command: What was typed, for the record.
    """

    folder: Path
    profile: ProfileName | None = None
    clip: str | None = None
    device: str = "auto"
    tune_on: Path | None = None
    qrels: Path | None = None
    queries: Path | None = None
    judgements: Path | None = None
    rerank: str | None = None
    seed: int = 0
    resamples: int = RESAMPLES
    flips: int = FLIPS
    synthetic_vectors: int = SYNTHETIC_VECTORS
    command: str = ""


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def evaluate(plan: Plan, models: Models | None = None) -> Metrics:
    """Measure both lenses, their fusion and the baselines; writes nothing.

    The same gallery, models and seed give the same figures; latencies and times differ.

    Args:
        plan: What to do.
        models: What embeds the queries; None loads those of the plan's profile.

    Raises:
        GalleryError: The gallery, or the one to tune on, cannot be used.
        SourceError: It has no references, or qrels do not fit it.
        MissingDependencyError: A package that works out the figures is missing.
    """
    clock = _Clock()
    with clock.stage("open"):
        models = models or Models(profile_of(plan), device=plan.device)
        gallery = Gallery.open(plan.folder, models.profile)
        queries = _queries(gallery, plan)
        tuning = Gallery.open(plan.tune_on, models.profile) if plan.tune_on else None
        tuning_queries = _references(tuning) if tuning else None
    with clock.stage("encode queries"):
        asked = AskedQueries.embed(gallery, queries, models)
        asked_to_tune = (
            AskedQueries.embed(tuning, tuning_queries, models)
            if tuning and tuning_queries
            else None
        )
    with clock.stage("choose fusion"):
        served = models.profile.served_fusion
        fusions = TunedFusions.choose(asked, asked_to_tune, plan.seed, served)
    baselines = {**text_scorers(asked, served), **_baselines(asked, plan.seed)}
    matcher = models.matcher
    if plan.rerank is not None and matcher is not None:
        with clock.stage("rerank"):
            baselines = {"clip_reranked": reranked_scorer(asked, matcher), **baselines}
    with clock.stage("rank"):
        results, seen = lens_results.rank_all(asked, fusions, baselines)
    with clock.stage("intervals and tests"):
        figures = lens_results.figures(results, asked, resamples=plan.resamples, seed=plan.seed)
        tests = lens_results.paired_tests(results, asked, flips=plan.flips, seed=plan.seed)
    with clock.stage("kinds of query"):
        kinds = kind_figures(gallery, models)
    with clock.stage("captions"):
        captions = _caption_quality(gallery, models)
    with clock.stage("index"):
        curves = _curves(asked, plan)
    outcome = Outcome(
        ranks={lens: results[lens].ranks for lens in ("captions", "clip", "fused")},
        first={lens: seen[lens].first for lens in LENSES},
    )
    return Metrics(
        gallery=gallery.name,
        images=len(gallery),
        queries=len(asked),
        several_relevant=queries.several_relevant,
        lenses=figures,
        tests=tests,
        fusion=fusions.describe(figures, tests),
        captions=captions,
        index=curves,
        groups=groups(queries.queries, outcome),
        kinds=kinds,
        solved_by_one=solved_by_one(
            queries.queries, gallery.records, outcome, asked.nearest_caption
        ),
        scores={lens: histogram(seen[lens].right, seen[lens].wrong) for lens in LENSES},
        notes=(*queries.notes, *_notes(gallery.manifest)),
        seconds=clock.seconds,
        provenance=_provenance(gallery, queries, plan),
    )


def profile_of(plan: Plan) -> Profile:
    """Return the models that a plan's queries are embedded with.

    Raises:
        SourceError: The gallery was built with a profile that is not known here.
        ModelError: The plan names a CLIP model that is not there.
    """
    name = plan.profile or Manifest.read(plan.folder).profile
    found: dict[str, Profile] = {known: each for known, each in PROFILES.items() if known == name}
    if not found:
        raise SourceError(
            f"{plan.folder.name} was built with the profile {name[:40]!r}; only "
            f"{' and '.join(PROFILES)} are known here."
        )
    return with_matcher(with_clip(found[name], plan.clip), plan.rerank)


def _references(gallery: Gallery) -> QuerySet:
    given = gallery.manifest.caption_origin != "generated"
    queries = from_references(gallery.records, captions_given=given)
    if gallery.manifest.source.id != SAMPLE_NAME:
        return queries
    return replace(queries, origin=_BY_THE_TEAM, notes=(_TEAM_NOTE, *queries.notes))


def _queries(gallery: Gallery, plan: Plan) -> QuerySet:
    if plan.judgements and (plan.qrels or plan.queries):
        raise SourceError("Give either --judgements, or --qrels with --queries, not both.")
    if plan.judgements:
        return from_flickr8k_judgements(plan.judgements, gallery.records)
    if plan.qrels and plan.queries:
        return from_trec(plan.qrels, plan.queries, gallery.records)
    if plan.qrels or plan.queries:
        raise SourceError("--qrels and --queries go together: labels, and the texts they label.")
    return _references(gallery)


def _baselines(asked: AskedQueries, seed: int) -> dict[LensName, Scorer]:
    texts = [query.text for query in asked.queries.queries]
    # BM25 reads what the caption lens reads: all captions of a picture, as one text.
    captions = [" ".join(c.text for c in record.captions) for record in asked.gallery.records]
    several: dict[LensName, Scorer] = {}
    if not asked.gallery.caption_rows.single:
        several = {
            "captions_first": asked.caption_scorer("first"),
            "captions_mean": asked.caption_scorer("mean"),
            "captions_best": asked.caption_scorer("best"),
        }
    if asked.owed is not None:
        several = {"clip_corrected": asked.corrected_scorer(), **several}
    return {
        **several,
        "bm25": bm25_scorer(texts, captions),
        "random": random_scorer(len(captions), seed),
    }


def _caption_quality(gallery: Gallery, models: Models) -> CaptionQuality | None:
    # References without words, such as "🐕!", say nothing that words could be compared with.
    worded = [
        [text for text in record.references if caption_metrics.normalise_caption(text)]
        for record in gallery.records
    ]
    rows = [row for row, texts in enumerate(worded) if texts]
    if gallery.manifest.caption_origin != "generated" or not rows:
        return None
    records = [gallery.records[row] for row in rows]
    captions = [record.caption for record in records]
    references = [worded[row] for row in rows]
    embedded = models.clip.encode_text(captions)
    clip = gallery.manifest.clip
    return CaptionQuality(
        images=len(records),
        bleu_4=round(caption_metrics.bleu4(captions, references), 2),
        cider=_cider(captions, references),
        clip_score=round(caption_metrics.clip_score(gallery.embeddings("clip")[rows], embedded), 4),
        clip_model=f"{clip.name} ({clip.revision})",
        flagged=sum(bool({*record.caption_flags} - {UNSURE}) for record in records) / len(records),
        distinct=len(set(captions)) / len(captions),
    )


def _cider(captions: list[str], references: list[list[str]]) -> float | None:
    try:
        return round(caption_metrics.cider(captions, references), 4)
    except MissingDependencyError as error:
        logger.warning("CIDEr is left out. %s", error)
        return None


def _curves(asked: AskedQueries, plan: Plan) -> dict[str, IndexCurve]:
    gallery = asked.gallery
    shuffled = np.random.default_rng(plan.seed).permutation(len(asked))
    sample = np.sort(shuffled[:_CURVE_QUERIES])
    curves: dict[str, IndexCurve] = {}
    for lens in LENSES:
        clustered = next((kind for kind in gallery.index_kinds if kind.startswith("ivf")), None)
        if clustered is None:
            continue
        ivf, flat = gallery.index(lens, clustered), gallery.exact_index(lens)
        sizes: dict[IndexKind, int] = {
            "flat": gallery.manifest.files[embeddings_file(lens)].bytes,
            "ivf": gallery.manifest.files[index_file(lens, clustered)].bytes,
        }
        vectors, queries = len(gallery.indexed_vectors(lens)[0]), asked.embedded[lens][sample]
        curves[lens] = index_curve.measure(flat, ivf, vectors, queries, sizes)
    if plan.synthetic_vectors > len(gallery) > 1:
        curves["synthetic"] = index_curve.measure_enlarged(
            gallery.embeddings("captions"),
            asked.embedded["captions"][sample],
            plan.synthetic_vectors,
            seed=plan.seed,
        )
    return curves


def _notes(manifest: Manifest) -> tuple[str, ...]:
    models = [model for model in (manifest.captioner, manifest.clip) if model and model.note]
    return (
        "R@k counts a query as found if any relevant picture is among the first k. Ranks beyond "
        f"{DEPTH} count as not found, except in the median rank. Equal scores rank in the order "
        "of the gallery.",
        "Intervals and tests resample pictures, not queries: the captions of one picture are not "
        "independent. P-values are not corrected for the number of tests.",
        *dict.fromkeys(f"{model.name}: {model.note}" for model in models),
    )


def _provenance(gallery: Gallery, queries: QuerySet, plan: Plan) -> Provenance:
    manifest = gallery.manifest
    models = {"sentence": manifest.sentence, "clip": manifest.clip}
    if manifest.captioner is not None:
        models["captioner"] = manifest.captioner
    source = manifest.source
    return Provenance(
        manifest_sha256=gallery.manifest_sha256,
        source=source.id + (f" at {source.revision}" if source.revision else ""),
        split=source.split or "",
        caption_origin=manifest.caption_origin,
        query_origin=queries.origin,
        models={
            role: MeasuredModel(name=ref.name, revision=ref.revision, precision=ref.precision)
            for role, ref in models.items()
        },
        seed=plan.seed,
        resamples=plan.resamples,
        flips=plan.flips,
        machine=_machine(),
        program=", ".join(
            f"{name} {found or 'not installed'}" for name, found in versions_of(_LIBRARIES).items()
        ),
        command=plan.command,
        written_sha256=written_sha256(source.id),
    )


def _machine() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cores} cores, {gpu}, Python {platform.python_version()}"
