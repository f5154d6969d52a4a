"""How good captions are: a thin layer over sacrebleu and pycocoevalcap."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from core.errors import MissingDependencyError

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
