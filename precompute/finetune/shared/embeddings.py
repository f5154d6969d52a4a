"""What captions mean together, as sentence embeddings: the aim of grounding and of retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.models.clip.encoder import MiniLmEncoder
from core.models.profiles import PROFILES

if TYPE_CHECKING:
    from core.models.spec import TextEncoder

_TEXT_BATCH = 256


@dataclass(frozen=True, slots=True)
class Meanings:
    """What the captions of each image mean together.

    Attributes:
        rows: float32 (n, dim), unit norm: the mean embedding of each image's captions, centred.
        centre: float32 (dim,): the mean of those means, which was taken off.
    """

    rows: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, counts: Sequence[int]) -> Meanings:
        """Average consecutive embeddings in groups of ``counts``, then centre and normalise."""
        means = np.add.reduceat(embeddings, starts_of(counts), axis=0) / np.asarray(counts)[:, None]
        centre = means.mean(axis=0)
        return cls(unit_rows(means - centre), centre.astype(np.float32))

    @classmethod
    def read(cls, captions: Sequence[Sequence[str]]) -> Meanings:
        """Embed every caption by the sentence encoder of the caption lens."""
        texts = [text for own in captions for text in own]
        embeddings = embed_texts(sentence_encoder(), texts, show=True)
        return cls.of(embeddings, [len(own) for own in captions])

    def centred(self, embeddings: np.ndarray) -> np.ndarray:
        """Centre and normalise embeddings (m, dim) of texts as the rows are."""
        return unit_rows(embeddings - self.centre)


def sentence_encoder() -> TextEncoder:
    """Return the encoder by which the caption lens compares captions, not yet loaded."""
    return MiniLmEncoder(PROFILES["mini"].sentence)


def embed_texts(encoder: TextEncoder, texts: Sequence[str], *, show: bool = False) -> np.ndarray:
    """Embed texts in batches of like length, with little padding: float32 (n, dim)."""
    from tqdm import tqdm

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [
        encoder.encode_text([texts[i] for i in order[start : start + _TEXT_BATCH]])
        for start in tqdm(
            range(0, len(order), _TEXT_BATCH),
            desc="meanings of captions",
            unit="batch",
            disable=not show,
        )
    ]
    return np.concatenate(parts)[np.argsort(order)]


def starts_of(counts: Sequence[int]) -> np.ndarray:
    """Return where each image's captions begin among all captions, int64 (images,)."""
    return np.concatenate([[0], np.cumsum(counts)[:-1]])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1, float32; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-6)).astype(np.float32)
