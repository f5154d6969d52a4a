"""Texts to embed, and what every encoder's embeddings are."""

from __future__ import annotations

import numpy as np

TEXTS = ["a dog", "two children play football on wet grass", "", "🏄 🌊", "ein Hund läuft"]


def assert_unit_rows(embeddings: np.ndarray, rows: int, dim: int) -> None:
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (rows, dim)
    assert embeddings.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), np.ones(rows), atol=1e-5)
