"""What a contrastive run learns from, and in which order: the steps of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from precompute.finetune.clip.recipe import ContrastiveRecipe

Batch = tuple[Sequence[int], Sequence[int]]
"""Rows of images, and the view of each."""

_SEEDS_PER_RUN = 1_000_003


@dataclass(frozen=True, slots=True)
class Material:
    """Images with captions as the two towers take them: features, or pixels and token ids.

    Attributes:
        name: What the dataset is, for a report.
        images: Reads batches of views, in order, for :meth:`Tower.forward`.
        texts: Reads captions by their numbers, likewise.
        owners: For every caption, the row of its image; ascending, from 0.
        views: Of every image.
    """

    name: str
    images: Callable[[Iterable[Batch]], Iterator[torch.Tensor]]
    texts: Callable[[Sequence[int]], torch.Tensor]
    owners: Sequence[int]
    views: int = 1

    def __len__(self) -> int:
        """Return the number of images."""
        return self.owners[-1] + 1


@dataclass(frozen=True, slots=True)
class Step:
    """What one step learns from.

    Attributes:
        rows: Of the images.
        views: Of each image.
        captions: int64 (captions an image, rows), their numbers.
    """

    rows: list[int]
    views: list[int]
    captions: torch.Tensor

    def cut(self, parts: int) -> list[Batch]:
        """Cut the images into parts of like size, in order."""
        ends = [len(self.rows) * part // parts for part in range(parts + 1)]
        return [(self.rows[a:b], self.views[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def plan_epoch(material: Material, recipe: ContrastiveRecipe, epoch: int) -> list[Step]:
    """Draw order, views and captions of an epoch, whose last incomplete batch is left out."""
    draw = torch.Generator().manual_seed(recipe.seed * _SEEDS_PER_RUN + epoch)
    images = len(material)
    order = torch.randperm(images, generator=draw)
    view = torch.randint(0, material.views, (images,), generator=draw)
    counts = torch.bincount(torch.tensor(material.owners), minlength=images)
    firsts = counts.cumsum(0) - counts
    # Images differ in their number of captions, so the draw is a share of it.
    start = (torch.rand(images, generator=draw) * counts).long()
    offsets = torch.arange(recipe.captions_per_image)[:, None]
    captions = firsts + (start + offsets) % counts
    return [
        Step(rows.tolist(), view[rows].tolist(), captions[:, rows])
        for rows in order.split(recipe.batch_size)
        if len(rows) == recipe.batch_size
    ]
