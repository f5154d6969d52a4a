"""Retrieval and caption metrics: a thin layer over ir-measures, sacrebleu and pycocoevalcap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from core.errors import MissingDependencyError

RETRIEVAL_METRICS = ("R@1", "R@5", "R@10", "MRR", "mAP", "nDCG@10")

Placed = tuple[tuple[int, int], ...]
"""The (rank, grade) of each picture that is relevant to a query; rank 0 stands for not found."""

BATCH_PICTURES = 100_000
"""Pictures that the metrics' library holds at once, about."""

_PUNCTUATION = re.compile(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)")


def normalise_caption(text: str) -> str:
    """Lowercase, and drop punctuation except hyphens and apostrophes inside a word."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def bleu4(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return corpus BLEU-4 in [0, 100], unsmoothed, over any number of references an image.

    Both sides are lowercased, stripped of punctuation and split at whitespace first: what the
    captioning literature reports, and lower than BLEU with the full stops left in.

    Raises:
        ValueError: The two sequences differ in length, or are empty.
    """
    from sacrebleu.metrics import BLEU

    if not captions or len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions for {len(references)} sets of references")
    most = max(len(each) for each in references)
    streams = [
        [normalise_caption(each[i]) if i < len(each) else None for each in references]
        for i in range(most)
    ]
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    generated = [normalise_caption(text) for text in captions]
    # None stands for a reference that an image lacks, which sacrebleu's annotation leaves out.
    return metric.corpus_score(generated, streams).score  # type: ignore[arg-type]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return CIDEr-D, tf-idf weighted n-gram similarity; n-gram frequencies from ``references``.

    Words are those of :func:`normalise_caption`, not of the Java tokenizer that COCO's server
    runs; on plain English captions the two differ in the third digit.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        ValueError: The two sequences differ in length, or are empty.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise MissingDependencyError("pycocoevalcap", "CIDEr") from error

    if not captions or len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions for {len(references)} sets of references")
    generated = {row: [normalise_caption(text)] for row, text in enumerate(captions)}
    given = {row: [normalise_caption(t) for t in texts] for row, texts in enumerate(references)}
    if not any(text for texts in given.values() for text in texts):
        return 0.0  # an n-gram frequency of nothing ends the library
    score, _ = Cider().compute_score(given, generated)
    return float(score)


def clip_score(image_embeddings: np.ndarray, caption_embeddings: np.ndarray) -> float:
    """Return the mean of ``2.5 max(cosine, 0)`` (Hessel et al. 2021) over rows of unit norm."""
    cosines = np.einsum("nd,nd->n", image_embeddings, caption_embeddings)
    return float(2.5 * np.maximum(cosines, 0).mean())


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
