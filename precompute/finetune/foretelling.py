"""Telling from an image, by a small network, what its captions would mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from precompute.finetune.caption_meanings import unit_rows

if TYPE_CHECKING:
    from torch import nn

_HIDDEN = 1024
_DROPOUT = 0.4
_BATCH = 480
_EPOCHS = 25
_RATE = 1e-3
_DECAY = 0.05
_FIRST_SCALE = 20.0
"""Of the cosines in the loss, to begin with."""

_SHARPNESS = 50.0
"""Of the attention to known captions."""

_OWN_SHARE = 0.5
"""Weight of what the network says beside the known captions that are like it."""

_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Foreteller:
    """From what a tower says of an image to the meaning that its captions have together.

    A network is trained to pick an image's captions out of many. What it says finds captions but
    is like none; so the known captions that it is nearest to are averaged, and its own word added.

    Attributes:
        network: (n, features) to (n, dim).
        centre: float32 (features,), taken off first.
        scale: float32 (features,), divided by.
        known: float32 (captions, dim), unit norm.
        first: int64 (images,): the first caption of each image among ``known``.
    """

    network: nn.Module
    centre: np.ndarray
    scale: np.ndarray
    known: np.ndarray
    first: np.ndarray

    def __call__(self, seen: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
        """Return meanings, float32 (n, dim), unit norm.

        Args:
            seen: float32 (n, features).
            own: int64 (n,): which of the known images these are, whose captions are then not
                looked at; None if they are others.
        """
        import torch

        found = self.found(seen)
        known = torch.from_numpy(self.known)
        owner = np.zeros(len(self.known), dtype=np.int64)
        owner[self.first[1:]] = 1
        whose = torch.from_numpy(owner.cumsum())
        parts = []
        for start in range(0, len(found), _AT_ONCE):
            said = torch.from_numpy(found[start : start + _AT_ONCE])
            likeness = _SHARPNESS * said @ known.T
            if own is not None:
                mine = torch.from_numpy(own[start : start + _AT_ONCE])
                likeness = likeness.masked_fill(whose == mine[:, None], -torch.inf)
            near = torch.nn.functional.normalize(likeness.softmax(dim=1) @ known, dim=1)
            parts.append((near + _OWN_SHARE * said).numpy())
        return unit_rows(np.concatenate(parts))

    def found(self, seen: np.ndarray) -> np.ndarray:
        """Return what the network alone says, float32 (n, dim), unit norm."""
        import torch

        with torch.inference_mode():
            rows = torch.from_numpy((seen - self.centre) / self.scale).float()
            return unit_rows(self.network.eval()(rows).numpy())


def foretell(
    seen: np.ndarray, known: np.ndarray, counts: Sequence[int], folds: int, seed: int
) -> tuple[np.ndarray, Foreteller]:
    """Train on all images, and on all but each fold of them.

    Args:
        seen: float32 (n, features): what the tower says of each image.
        known: float32 (captions, dim), unit norm: what each caption means.
        counts: Captions of each image, in order.
        folds: Parts of the images.
        seed: Of everything.

    Returns:
        float32 (n, dim), unit norm: of each image, by a network that never met it and without its
        captions; and the network that has met all.
    """
    fold = np.random.default_rng(seed).permutation(len(seen)) % folds
    told = np.empty((len(seen), known.shape[1]), dtype=np.float32)
    for number in range(folds):
        held = np.flatnonzero(fold == number)
        told[held] = _trained(seen, known, counts, fold != number, seed)(seen[held], held)
    return told, _trained(seen, known, counts, fold >= 0, seed)


def _trained(
    seen: np.ndarray, known: np.ndarray, counts: Sequence[int], chosen: np.ndarray, seed: int
) -> Foreteller:
    """Train one network on some images to pick their captions: symmetric InfoNCE."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize
    from tqdm import tqdm

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    rows, amounts = np.flatnonzero(chosen), np.asarray(counts)
    first = np.concatenate([[0], np.cumsum(amounts)[:-1]])
    centre, scale = seen[rows].mean(axis=0), seen[rows].std(axis=0) + 1e-6
    images, texts = torch.from_numpy((seen - centre) / scale).float(), torch.from_numpy(known)
    network = nn.Sequential(
        nn.Dropout(_DROPOUT),
        nn.Linear(seen.shape[1], _HIDDEN),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, known.shape[1]),
    )
    sharpness = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
    optimizer = torch.optim.AdamW([*network.parameters(), sharpness], _RATE, weight_decay=_DECAY)
    batches = max(1, len(rows) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_EPOCHS * batches)
    for _ in tqdm(range(_EPOCHS), desc="foretelling captions", unit="epoch"):
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
    return Foreteller(network, centre, scale, known, first)
