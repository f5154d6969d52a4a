"""Telling from an image, by a small network, what its captions would mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from precompute.finetune.caption_meanings import starts_of, unit_rows

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

_SHARPNESS = 50.0
"""Of the attention to known captions."""

_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Foreteller:
    """From what a tower says of an image to the meaning that its captions have together.

    Networks are trained to pick an image's captions out of many. What they say finds captions but
    is like none; so the known captions that it is nearest to are averaged, and it is added to them.

    Attributes:
        networks: (n, features) to (n, dim) each; their answers are averaged.
        centre: float32 (features,), taken off first.
        scale: float32 (features,), divided by.
        known: float32 (captions, dim), unit norm.
        first: int64 (images,): the first caption of each image among ``known``.
    """

    networks: tuple[nn.Module, ...]
    centre: np.ndarray
    scale: np.ndarray
    known: np.ndarray
    first: np.ndarray

    def __call__(self, seen: np.ndarray, own: np.ndarray, boldness: float = 0.0) -> np.ndarray:
        """Return meanings, float32 (n, dim), unit norm.

        Args:
            seen: float32 (n, features).
            own: int64 (n,): which of the known images these are, whose captions are not looked
                at; -1 for others.
            boldness: Weight of what the networks say beside the mean of the known captions.
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
            mine = torch.from_numpy(own[start : start + _AT_ONCE])
            likeness = likeness.masked_fill(whose == mine[:, None], -torch.inf)
            near = torch.nn.functional.normalize(likeness.softmax(dim=1) @ known, dim=1)
            parts.append((near + boldness * said).numpy())
        return unit_rows(np.concatenate(parts))

    def found(self, seen: np.ndarray) -> np.ndarray:
        """Return what the networks alone say, float32 (n, dim), unit norm."""
        import torch

        with torch.inference_mode():
            rows = torch.from_numpy((seen - self.centre) / self.scale).float()
            answers = [unit_rows(network.eval()(rows).numpy()) for network in self.networks]
        return unit_rows(np.mean(answers, axis=0))


def foretell(
    seen: np.ndarray, known: np.ndarray, counts: Sequence[int], folds: int, seed: int
) -> tuple[np.ndarray, Foreteller]:
    """Train a network for each fold of the images, on all the others.

    Args:
        seen: float32 (n, features): what the tower says of each image.
        known: float32 (captions, dim), unit norm: what each caption means.
        counts: Captions of each image, in order.
        folds: Parts of the images.
        seed: Of everything.

    Returns:
        float32 (n, dim), unit norm: of each image, by a network that never met it and without its
        captions; and all the networks together, for other images.
    """
    import torch

    folds = min(folds, len(seen))
    fold = np.random.default_rng(seed).permutation(len(seen)) % folds
    first = starts_of(counts)
    whole = Foreteller((), seen.mean(axis=0), seen.std(axis=0) + 1e-6, known, first)
    images = torch.from_numpy((seen - whole.centre) / whole.scale).float()
    texts = torch.from_numpy(known)
    told = np.empty((len(seen), known.shape[1]), dtype=np.float32)
    networks = []
    for number in range(folds):
        met, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        network = _trained(images, texts, first, counts, met, seed)
        told[held] = replace(whole, networks=(network,))(seen[held], held)
        networks.append(network)
    return told, replace(whole, networks=tuple(networks))


def _trained(
    images: torch.Tensor,
    texts: torch.Tensor,
    first: np.ndarray,
    counts: Sequence[int],
    rows: np.ndarray,
    seed: int,
) -> nn.Module:
    """Train one network on some images to pick their captions: symmetric InfoNCE."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize
    from tqdm import tqdm

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    amounts = np.asarray(counts)
    network = nn.Sequential(
        nn.Dropout(_DROPOUT),
        nn.Linear(images.shape[1], _HIDDEN),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, texts.shape[1]),
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
    return network
