"""Which pictures are hubs: near to every text, and so found for queries that are not about them.

How near a picture lies to the texts that are nearest to it, of a bank of captions of other photos,
tells. Taking a share of that off its score is known as cross-domain similarity local scaling
(Conneau et al., 2018) and as querybank normalisation (Bogolin et al., 2022).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from core.errors import ModelError
from core.mapped import let_go
from core.models.locate import ASSETS, revision_of

if TYPE_CHECKING:
    from pathlib import Path

    from core.models.spec import ModelSpec

BANK_FILE = ASSETS / "hubs.safetensors"
"""Embeddings of captions, float16 (texts, dim), by the revision of the CLIP model that made them.
``python -m precompute hubs`` writes it."""

NEAREST = 10
"""Texts of the bank that count, as in the first paper's experiments."""

SHARE = 0.5
"""Of the hubness, what is taken off a score: chosen on held-out photos by that command."""

BLOCK = 2048


def text_bank(clip: ModelSpec) -> np.ndarray | None:
    """Return a CLIP model's bank, float32 (texts, dim), rows of unit norm; None if it has none.

    Raises:
        ModelNotFoundError: The model's files are not there.
        ModelError: The bank cannot be read.
    """
    return _banks(BANK_FILE).get(revision_of(clip)) if BANK_FILE.is_file() else None


@lru_cache(maxsize=2)
def _banks(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {revision: rows.astype(np.float32) for revision, rows in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} holds no embeddings that can be read.") from error


def hubness(images: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Return each picture's mean cosine to the :data:`NEAREST` texts of a bank.

    Args:
        images: float32 (n, dim), unit norm.
        bank: float32 (texts, dim), unit norm.

    Returns:
        float32 (n,), in [-1, 1].
    """
    nearest = min(NEAREST, len(bank))
    found = np.empty(len(images), np.float32)
    for start in range(0, len(images), BLOCK):
        cosines = np.asarray(images[start : start + BLOCK]) @ bank.T
        cosines.partition(len(bank) - nearest, axis=1)
        found[start : start + BLOCK] = cosines[:, -nearest:].mean(axis=1)
    let_go(images)
    return found


def correction(images: np.ndarray, clip: ModelSpec) -> np.ndarray:
    """Return what is taken off the pictures' CLIP scores for being hubs: float32 (n,).

    Args:
        images: Embeddings by this model: float32 (n, dim), unit norm.
        clip: The model; one without a bank takes nothing off.
    """
    bank = text_bank(clip)
    if bank is None:
        return np.zeros(len(images), np.float32)
    return np.float32(SHARE) * hubness(images, bank)
