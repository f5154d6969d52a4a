"""Fitting a captioner's probe: from what its image tower says to where captions lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from core.errors import SourceError
from core.models.captioner.rerank import RerankProbe
from core.models.captioner.settings import Decoding
from precompute.calibrate.threshold import write_settings

if TYPE_CHECKING:
    from core.models.captioner.instructblip import InstructBlipCaptioner
    from precompute.sources.pairs import Pairs

_EPOCHS = 40
_BATCH = 32

_FURTHER = 3.5
"""Captions drawn for each further one that is wanted: with a probe, more to choose from is better,
where the surest of many would all say the same."""


def class_tokens(captioner: InstructBlipCaptioner, pairs: Pairs) -> np.ndarray:
    """Return what the image tower says of each image as a whole, float32 (n, width)."""
    parts = []
    for start in tqdm(range(0, len(pairs), _BATCH), desc="looking", unit="batch"):
        rows = range(start, min(start + _BATCH, len(pairs)))
        parts.append(captioner.class_tokens([pairs.image(row) for row in rows]))
    return np.concatenate(parts)


def fit_probe(tokens: np.ndarray, embeddings: np.ndarray, counts: Sequence[int]) -> RerankProbe:
    """Fit the linear map by which images pick their own captions best: symmetric InfoNCE.

    Args:
        tokens: float32 (n, width): each image's class token.
        embeddings: float32 (captions, dim), unit norm, those of an image together.
        counts: Captions of each image.

    Raises:
        SourceError: There is only one image, which picks its captions anyhow.
    """
    import torch

    from precompute.calibrate.probe import fit_contrastive

    if len(tokens) < 2:
        raise SourceError("A probe needs two images with captions or more.")
    centre, scale = tokens.mean(axis=0), tokens.std(axis=0) + 1e-6
    torch.manual_seed(0)
    linear = torch.nn.Linear(tokens.shape[1], embeddings.shape[1])
    fit_contrastive(
        linear,
        torch.from_numpy((tokens - centre) / scale).float(),
        torch.from_numpy(embeddings),
        counts,
        np.arange(len(tokens)),
        seed=0,
        epochs=_EPOCHS,
    )
    weight = linear.weight.detach().numpy().T / scale[:, None]
    return RerankProbe(centre, np.ascontiguousarray(weight), linear.bias.detach().numpy())


def write_choice(folder: Path, decoding: Decoding, candidates: int, weight: float) -> None:
    """Put how to choose into ``twolens.json``; the rest of it stays.

    Args:
        folder: Of the captioner.
        decoding: How it searches.
        candidates: Captions to choose among.
        weight: How much the probe counts.
    """
    further = replace(decoding.further, candidates=max(decoding.further.candidates, _FURTHER))
    choice = {"candidates": candidates, "rerank_weight": weight, "further": asdict(further)}
    write_settings(folder, decoding=choice)
