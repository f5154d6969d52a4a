"""What a contrastive run learns from, and in which order: the steps of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from precompute.finetune.clip.recipe import Recipe

Batch = tuple[Sequence[int], Sequence[int]]
"""Rows of images, and the view of each."""

OWN_SEED_PER_EPOCH = 1_000_003


@dataclass(frozen=True, slots=True)
class Material:
    """Images with captions as the two towers take them: features, or pixels and token ids.

    Attributes:
        name: What the dataset is, for a report.
        images: Reads batches of views, in order, for :meth:`Tower.forward`.
        texts: Reads captions by their numbers, likewise.
        owners: For every caption, the row of its image; ascending, from 0.
        unlabelled: Images after those with captions.
        views: Of every image.
        teacher: float16 (views or 1, images, dim), unit norm, or None.
    """

    name: str
    images: Callable[[Iterable[Batch]], Iterator[torch.Tensor]]
    texts: Callable[[Sequence[int]], torch.Tensor]
    owners: Sequence[int]
    unlabelled: int = 0
    views: int = 1
    teacher: torch.Tensor | None = None

    @property
    def captioned(self) -> int:
        """Number of images with captions."""
        return self.owners[-1] + 1


@dataclass(frozen=True, slots=True)
class Step:
    """What one step learns from.

    Attributes:
        rows: Of the images, the captioned ones first.
        views: Of each image.
        captions: int64 (captions an image, captioned rows), their numbers.
    """

    rows: list[int]
    views: list[int]
    captions: torch.Tensor


def plan_epoch(material: Material, recipe: Recipe, epoch: int) -> list[Step]:
    """Draw order, views and captions of an epoch, whose last incomplete batch is left out."""
    draw = torch.Generator().manual_seed(recipe.seed * OWN_SEED_PER_EPOCH + epoch)
    captioned, unlabelled = material.captioned, material.unlabelled
    order = torch.randperm(captioned, generator=draw)
    view = torch.randint(0, material.views, (captioned + unlabelled,), generator=draw)
    counts = torch.bincount(torch.tensor(material.owners), minlength=captioned)
    firsts = counts.cumsum(0) - counts
    # Images differ in their number of captions, so the draw is a share of it.
    start = (torch.rand(captioned, generator=draw) * counts).long()
    offsets = torch.arange(recipe.captions_per_image)[:, None]
    captions = firsts + (start + offsets) % counts
    steps = captioned // recipe.batch_size
    others = captioned + torch.randperm(unlabelled, generator=draw)
    plan = []
    for number, more in zip(range(steps), others.tensor_split(steps), strict=True):
        own = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        rows = torch.cat([own, more])
        plan.append(Step(rows.tolist(), view[rows].tolist(), captions[:, own]))
    return plan


def share_of(step: Step, rank: int, world: int) -> Step:
    """Return what one of several processes does of a step."""
    if world == 1:
        return step
    own = step.captions.shape[1]
    mine = [*range(rank, own, world), *range(own + rank, len(step.rows), world)]
    return Step(
        [step.rows[i] for i in mine], [step.views[i] for i in mine], step.captions[:, rank::world]
    )


def cut_step(step: Step, parts: int) -> list[Batch]:
    """Cut the images of a step into parts of like size, in order."""
    ends = [len(step.rows) * part // parts for part in range(parts + 1)]
    return [(step.rows[a:b], step.views[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
