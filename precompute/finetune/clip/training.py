"""A CLIP model in the training loop: both towers, either, or only the heads on cached features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss, SigLipLoss

from precompute.evaluate.metrics.retrieval_metrics import Recall, recall
from precompute.finetune.clip.recipe import ContrastiveRecipe
from precompute.finetune.clip.towers import TunedClip
from precompute.finetune.shared.loop import Loop, Schedule

_MAX_LOGIT_SCALE = math.log(100)
_PROBE_BATCH = 64

Batch = tuple[Sequence[int], Sequence[int]]
"""Rows of images, and the view of each."""


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
    draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
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


_Loaded = tuple[Step, list[torch.Tensor]]


class ContrastiveTraining:
    """Trains one model on one recipe; can stop at any moment and go on.

    Args:
        model: On its device.
        recipe: How to train.
        images: Number of training images.
        out: Its ``checkpoint`` is what a run goes on from, its ``log`` is for TensorBoard.
        identity: Everything that must be the same for that; JSON values.

    Raises:
        SourceError: The checkpoint belongs to another run.
    """

    def __init__(
        self,
        model: TunedClip,
        recipe: ContrastiveRecipe,
        images: int,
        *,
        out: Path,
        identity: Mapping[str, Any],
    ) -> None:
        """Take up what an earlier run left."""
        self.model = model
        self.recipe = recipe
        self._device = model.image.device
        self._loss = SigLipLoss() if recipe.loss == "siglip" else ClipLoss()
        schedule = Schedule(
            epochs=recipe.epochs,
            steps=images // recipe.batch_size,
            warmup=recipe.warmup,
            max_norm=None,
            patience=recipe.patience,
            seed=recipe.seed,
        )
        self.loop: Loop[_Loaded] = Loop(
            model.changing(),
            model.optimizer_groups(recipe),
            schedule,
            folder=out / "checkpoint",
            identity=identity,
            log=out / "log",
        )

    def fit(
        self, material: Material, probe: Material | None, keep: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Train from where the checkpoint is, or from the start.

        Args:
            material: What to learn from.
            probe: Measured after every epoch; R@5 decides which is the best, then R@1.
            keep: See :meth:`~precompute.finetune.shared.loop.Loop.fit`.

        Returns:
            For every epoch: its number, mean loss, temperature and recall.
        """

        def batches(epoch: int, first: int) -> Iterator[_Loaded]:
            self.model.image.train_unlocked()
            self.model.text.train_unlocked()
            plan = plan_epoch(material, self.recipe, epoch)[first:]
            parts = [step.cut(self.recipe.accumulation) for step in plan]
            images = material.images(part for step in parts for part in step)
            for step, cut in zip(plan, parts, strict=True):
                yield step, [next(images).to(self._device) for _ in cut]

        def measure() -> tuple[dict[str, Any], Sequence[float]]:
            assert probe is not None
            found = self.recall(probe)
            scale = float(self.model.logit_scale.detach().exp())
            figures = {"logit_scale": scale, "recall": found.as_json()}
            return figures, [found.at_5, found.at_1]

        return self.loop.fit(
            batches,
            lambda loaded: self._backward(material, *loaded),
            measure if probe is not None else None,
            keep,
        )

    def _backward(
        self, material: Material, step: Step, images: Sequence[torch.Tensor]
    ) -> dict[str, float]:
        """Leave the gradients of one step in the parameters and return the loss."""
        parts = self.recipe.accumulation
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        texts = [
            material.texts(numbers.tolist()).to(self._device)
            for numbers in step.captions.reshape(-1).tensor_split(parts)
        ]
        seeds = [self.loop.seed() * parts + part for part in range(parts)]
        inputs = list(zip(images, texts, seeds, strict=True))
        if parts == 1:
            loss = self._contrast(*self._embed(*inputs[0]), len(step.captions))
            loss.backward()
            return {"loss": loss.item()}
        # All is embedded once without gradients; the loss then says what each embedding should
        # change, and a second pass carries that into the weights, part by part (GradCache,
        # https://arxiv.org/abs/2101.06983): the activations of one part are in memory.
        with torch.no_grad():
            found = [self._embed(*part) for part in inputs]
        leaves = [torch.cat(side).requires_grad_() for side in zip(*found, strict=True)]
        loss = self._contrast(leaves[0], leaves[1], len(step.captions))
        loss.backward()
        gradients = [
            leaf.grad.split([len(part[side]) for part in found])
            for side, leaf in enumerate(leaves)
            if leaf.grad is not None
        ]
        for part, gradient in zip(inputs, zip(*gradients, strict=True), strict=True):
            pairs = zip(self._embed(*part), gradient, strict=True)
            kept = [(again, gradient) for again, gradient in pairs if again.requires_grad]
            if kept:
                torch.autograd.backward([e for e, _ in kept], [g for _, g in kept])
        return {"loss": loss.item()}

    def _contrast(self, images: torch.Tensor, texts: torch.Tensor, captions: int) -> torch.Tensor:
        """Return the mean loss over the first captions of all images, the second ones and so on.

        An image is never contrasted with another caption of its own.
        """
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        by_number = texts.view(captions, -1, texts.shape[1])
        return torch.stack([self._loss(images, each, scale, bias) for each in by_number]).mean()

    def _embed(
        self, images: torch.Tensor, texts: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        with self._autocast():
            return self.model.embed_images(images), self.model.embed_texts(texts)

    def _autocast(self) -> torch.autocast:
        is_half = self.recipe.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=is_half)

    @torch.inference_mode()
    def recall(self, probe: Material) -> Recall:
        """Search every caption among the first views of all images."""
        self.model.eval()

        def batched(count: int) -> list[range]:
            return [range(count)[i : i + _PROBE_BATCH] for i in range(0, count, _PROBE_BATCH)]

        with self._autocast():
            images = [
                self.model.embed_images(batch.to(self._device)).cpu()
                for batch in probe.images((rows, [0] * len(rows)) for rows in batched(len(probe)))
            ]
            texts = [
                self.model.embed_texts(probe.texts(numbers).to(self._device)).cpu()
                for numbers in batched(len(probe.owners))
            ]
        return recall(probe.name, torch.cat(images).numpy(), torch.cat(texts).numpy(), probe.owners)
