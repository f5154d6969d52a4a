"""What a generated caption is worth: how people would have put it, and which image it picks out.

The rewards of self-critical training (Rennie et al. 2017, arXiv:1612.00563), with the mean of an
image's other samples as the baseline (Luo 2020, arXiv:2003.09971). CIDEr-D keeps the language
human. The retrieval reward, after the discriminability loss of Luo et al. 2018 (arXiv:1803.04376),
is what the caption lens needs: a caption that fits its own image and no other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from precompute.evaluate.metrics import normalise_caption
from precompute.finetune.shared.embeddings import Meanings, embed_texts

if TYPE_CHECKING:
    from core.models.spec import TextEncoder

_LONGEST = 4
_SPREAD = 6.0
"""Of CIDEr-D's penalty for another length than the reference's, in words."""

_END = "</s>"
_ROUNDING = 1e-6

_Gram = tuple[str, ...]


class CiderReference:
    """CIDEr-D (Vedantam et al. 2015) against references whose n-gram frequencies are counted once.

    The same score as ``metrics.cider`` of the evaluation, which counts n-grams in the references of
    what it is given: a batch has too few.

    Args:
        references: Of every image; the corpus whose images an n-gram is counted in.
        mark_end: Whether the end counts as a word, without which a caption learns to stop at
            "in a".
    """

    def __init__(self, references: Sequence[Sequence[str]], *, mark_end: bool = False) -> None:
        """Count, then weigh every reference."""
        self._end = [_END] if mark_end else []
        counted = [[self._grams(text) for text in own] for own in references]
        found = Counter(gram for own in counted for gram in {g for some in own for g in some})
        self._log_images = math.log(max(2, len(references)))
        self._rarity = {gram: self._log_images - math.log(n) for gram, n in found.items()}
        self._weighed = [[self._weigh(grams) for grams in own] for own in counted]

    def __call__(self, text: str, image: int, references: Iterable[int] | None = None) -> float:
        """Score a caption against an image's references, or those of them that are numbered."""
        vectors, norms, length = self._weigh(self._grams(text))
        own = self._weighed[image]
        chosen = own if references is None else [own[number] for number in references]
        total = 0.0
        for others, other_norms, other_length in chosen:
            penalty = math.exp(-((length - other_length) ** 2) / (2 * _SPREAD**2))
            for mine, its, norm, other_norm in zip(
                vectors, others, norms, other_norms, strict=True
            ):
                if norm and other_norm:
                    shared = sum(
                        min(weight, its[gram]) * its[gram]
                        for gram, weight in mine.items()
                        if gram in its
                    )
                    total += penalty * shared / (norm * other_norm)
        return 10 * total / (_LONGEST * len(chosen))

    def _weigh(
        self, grams: Mapping[_Gram, int]
    ) -> tuple[list[dict[_Gram, float]], list[float], int]:
        vectors: list[dict[_Gram, float]] = [{} for _ in range(_LONGEST)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * self._rarity.get(gram, self._log_images)
        norms = [math.sqrt(sum(w * w for w in vector.values())) for vector in vectors]
        # CIDEr-D takes the number of bigrams as the length, as its authors' code does.
        return vectors, norms, sum(count for gram, count in grams.items() if len(gram) == 2)

    def _grams(self, text: str) -> Counter[_Gram]:
        words = [*normalise_caption(text).split(), *self._end]
        return Counter(
            tuple(words[start : start + length])
            for length in range(1, _LONGEST + 1)
            for start in range(len(words) - length + 1)
        )


class RetrievalReference:
    """How well a caption picks its own image out of all, by what their captions mean.

    A logarithm, since it matters whether the image comes second or twentieth, and hardly whether it
    comes 2,000th or 3,000th.

    Args:
        meanings: Of all images.
        encoder: What the caption lens compares texts by.
    """

    def __init__(self, meanings: Meanings, encoder: TextEncoder) -> None:
        """Remember them; texts are embedded once each."""
        self._meanings = meanings
        self._encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str], images: np.ndarray) -> np.ndarray:
        """Return minus the logarithm of the own image's rank for each caption, float32 (n,)."""
        new = sorted(set(texts) - self._known.keys())
        if new:
            embedded = self._meanings.centred(embed_texts(self._encoder, new))
            self._known.update(zip(new, embedded, strict=True))
        found = np.stack([self._known[text] for text in texts])
        scores = found @ self._meanings.rows.T
        own = scores[np.arange(len(texts)), images]
        # Ties, to within rounding, count against it.
        ranks = (scores >= own[:, None] - _ROUNDING).sum(axis=1)
        return -np.log(ranks).astype(np.float32)
