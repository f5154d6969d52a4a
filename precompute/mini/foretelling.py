"""Telling from an image, by small networks, what its captions would mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precompute.finetune.shared.embeddings import starts_of, unit_rows

if TYPE_CHECKING:
    import torch
    from torch import nn

_HIDDEN = 1024
_DROPOUT = 0.4
_BATCH = 480
_EPOCHS = 25
_RATE = 1e-3
_DECAY = 0.05
_FIRST_SCALE = 20.0
"""Of the cosines in the loss, to begin with."""

_RIDGE = 3.0
"""Of the regression from a caption's meaning to what is foretold."""


@dataclass(frozen=True, slots=True)
class Foreteller:
    """From what a tower says of an image to what its captions mean.

    Networks are trained to pick an image's captions out of many. Each of the known images was kept
    from one of them, which alone answers for it: so it is foretold as an unknown image would be.

    Attributes:
        networks: (n, features) to (n, dim) each.
        centre: float32 (features,), taken off first.
        scale: float32 (features,), divided by.
        stranger: int64 (images,): the network that never met each of the known images.
    """

    networks: tuple[nn.Module, ...]
    centre: np.ndarray
    scale: np.ndarray
    stranger: np.ndarray

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """Return what the known images' captions would mean, float32 (images, dim), unit norm.

        Args:
            seen: float32 (images, features): all of them in order, in any view.
        """
        import torch

        rows = torch.from_numpy((seen - self.centre) / self.scale).float()
        order = np.argsort(self.stranger, kind="stable")
        with torch.inference_mode():
            answers = [
                network.eval()(rows[np.flatnonzero(self.stranger == number)]).numpy()
                for number, network in enumerate(self.networks)
            ]
        return unit_rows(np.concatenate(answers)[np.argsort(order)])


def foretell(
    seen: np.ndarray, known: np.ndarray, counts: Sequence[int], folds: int, seed: int
) -> Foreteller:
    """Train a network for each fold of the images, on all the others.

    Args:
        seen: float32 (n, features): what the tower says of each image.
        known: float32 (captions, dim), unit norm: what each caption means.
        counts: Captions of each image, in order.
        folds: Parts of the images.
        seed: Of everything.
    """
    import torch

    folds = min(folds, len(seen))
    stranger = np.random.default_rng(seed).permutation(len(seen)) % folds
    centre, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    images = torch.from_numpy((seen - centre) / scale).float()
    texts = torch.from_numpy(known)
    networks = tuple(
        _trained(images, texts, counts, np.flatnonzero(stranger != number), seed)
        for number in range(folds)
    )
    return Foreteller(networks, centre, scale, stranger)


def expected(own: np.ndarray, foretold: np.ndarray) -> np.ndarray:
    """Return what would be foretold of images that each caption describes, by linear regression.

    What is foretold is vaguer than captions are, in some directions more than in others.

    Args:
        own: float32 (captions, dim): what each caption means.
        foretold: float32 (captions, dim): what was foretold of its image.

    Returns:
        float32 (captions, dim), the shorter the less a caption says of it.
    """
    centre, aim = own.mean(axis=0), foretold.mean(axis=0)
    rows = own - centre
    gram = rows.T @ rows + _RIDGE * np.eye(own.shape[1], dtype=np.float32)
    return (rows @ np.linalg.solve(gram, rows.T @ (foretold - aim)) + aim).astype(np.float32)


def _trained(
    images: torch.Tensor, texts: torch.Tensor, counts: Sequence[int], rows: np.ndarray, seed: int
) -> nn.Module:
    """Train one network on some images to pick their captions."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Dropout(_DROPOUT),
        nn.Linear(images.shape[1], _HIDDEN),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, texts.shape[1]),
    )
    learn_to_pick(network, images, texts, counts, rows, seed=seed)
    return network


def learn_to_pick(
    network: nn.Module,
    images: torch.Tensor,
    texts: torch.Tensor,
    counts: Sequence[int],
    rows: np.ndarray,
    *,
    seed: int,
    epochs: int = _EPOCHS,
) -> None:
    """Train a network to pick images' captions out of a batch of them: symmetric InfoNCE.

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
    from tqdm import tqdm

    random = np.random.default_rng(seed)
    first, amounts = starts_of(counts), np.asarray(counts)
    sharpness = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
    optimizer = torch.optim.AdamW([*network.parameters(), sharpness], _RATE, weight_decay=_DECAY)
    batches = max(1, len(rows) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=epochs * batches)
    for _ in tqdm(range(epochs), desc="foretelling captions", unit="epoch"):
        for part in np.array_split(random.permutation(rows), batches):
            drawn = first[part] + random.integers(amounts[part])
            said = normalize(network(images[part]), dim=1)
            likeness = sharpness.exp() * said @ texts[drawn].T
            right = torch.arange(len(part))
            loss = (cross_entropy(likeness, right) + cross_entropy(likeness.T, right)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
