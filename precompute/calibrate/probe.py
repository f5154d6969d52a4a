"""Training a small network on frozen features to pick images' captions out of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

_BATCH = 480
_RATE = 1e-3
_DECAY = 0.05
_FIRST_SCALE = 20.0
"""Of the cosines in the loss, to begin with; it is learned."""


def fit_contrastive(
    network: nn.Module,
    images: torch.Tensor,
    texts: torch.Tensor,
    counts: Sequence[int],
    rows: np.ndarray,
    *,
    seed: int,
    epochs: int,
) -> None:
    """Train a network by symmetric InfoNCE.

    Args:
        network: (n, features) to (n, dim), changed in place.
        images: float32 (images, features).
        texts: float32 (captions, dim), unit norm.
        counts: Captions of each image, in order.
        rows: The images to learn from.
        seed: Of the order, and of the captions drawn.
        epochs: Passes over the images, each with one of its captions.
    """
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize

    from precompute.finetune.shared.loop import Loop, Schedule

    amounts = np.asarray(counts)
    first = amounts.cumsum() - amounts
    steps = max(1, len(rows) // _BATCH)
    sharpness = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
    trained = {**dict(network.named_parameters()), "sharpness": sharpness}
    groups = [{"params": list(trained.values()), "lr": _RATE, "weight_decay": _DECAY}]

    def batches(epoch: int, _: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng([seed, epoch])
        for part in np.array_split(random.permutation(rows), steps):
            yield part, first[part] + random.integers(amounts[part])

    def backward(batch: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        part, drawn = batch
        embedded = normalize(network(images[part]), dim=1)
        scores = sharpness.exp() * embedded @ texts[drawn].T
        own = torch.arange(len(part))
        loss = (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2
        loss.backward()
        return {"loss": loss.item()}

    schedule = Schedule(epochs, steps, warmup=0.3, max_norm=None, seed=seed)
    Loop[tuple[np.ndarray, np.ndarray]](trained, groups, schedule).fit(batches, backward)
