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

Rows = Sequence[int]
"""Of images."""


@dataclass(frozen=True, slots=True)
class Material:
    """Images with captions as the two towers take them: features, or pixels and token ids.

    Attributes:
        name: What the dataset is, for a report.
        images: Reads batches of images, in order, for :meth:`Tower.forward`; pixels are cropped by
            the seed, or whole without one.
        texts: Reads captions by their numbers, likewise.
        owners: For every caption, the row of its image; ascending, from 0.
    """

    name: str
    images: Callable[[Iterable[Rows], int | None], Iterator[torch.Tensor]]
    texts: Callable[[Sequence[int]], torch.Tensor]
    owners: Sequence[int]

    def __len__(self) -> int:
        """Return the number of images."""
        return self.owners[-1] + 1


def plan_epoch(
    material: Material, batch_size: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw the batches of an epoch, whose last incomplete one is left out.

    Returns:
        Of each batch the rows of its images, int64 (n,), and the number of one caption of each.
    """
    draw = torch.Generator().manual_seed(seed)
    images = len(material)
    order = torch.randperm(images, generator=draw)
    counts = torch.bincount(torch.tensor(material.owners), minlength=images)
    firsts = counts.cumsum(0) - counts
    # Images differ in their number of captions, so the draw is a share of it.
    captions = firsts + (torch.rand(images, generator=draw) * counts).long()
    return [(rows, captions[rows]) for rows in order.split(batch_size) if len(rows) == batch_size]


_Batch = tuple[torch.Tensor, torch.Tensor]
"""Images, and the number of one caption of each."""


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
        self.loop: Loop[_Batch] = Loop(
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

        def batches(epoch: int, first: int) -> Iterable[_Batch]:
            self.model.image.train_unlocked()
            self.model.text.train_unlocked()
            seed = self.recipe.seed * 1_000_003 + epoch
            plan = plan_epoch(material, self.recipe.batch_size, seed)[first:]
            images = material.images((rows.tolist() for rows, _ in plan), seed)
            return zip(images, (captions for _, captions in plan), strict=True)

        def measure() -> tuple[dict[str, Any], Sequence[float]]:
            assert probe is not None
            found = self.recall(probe)
            scale = float(self.model.logit_scale.detach().exp())
            figures = {"logit_scale": scale, "recall": found.as_json()}
            return figures, [found.at_5, found.at_1]

        return self.loop.fit(
            batches,
            lambda batch: self._backward(material, *batch),
            measure if probe is not None else None,
            keep,
        )

    def _backward(
        self, material: Material, images: torch.Tensor, captions: torch.Tensor
    ) -> dict[str, float]:
        """Leave the gradients of one step in the parameters and return the loss."""
        model = self.model
        with torch.no_grad():
            model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        texts = material.texts(captions.tolist())
        with self._autocast():
            image_rows = model.embed_images(images.to(self._device))
            text_rows = model.embed_texts(texts.to(self._device))
        loss = self._loss(image_rows, text_rows, model.logit_scale.exp(), model.logit_bias)
        loss.backward()
        return {"loss": loss.item()}

    def _autocast(self) -> torch.autocast:
        is_fast = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.autocast(self._device.type, torch.bfloat16, enabled=is_fast)

    @torch.inference_mode()
    def recall(self, probe: Material) -> Recall:
        """Search every caption among all images, whole."""
        self.model.eval()

        def batched(count: int) -> list[range]:
            return [range(count)[i : i + _PROBE_BATCH] for i in range(0, count, _PROBE_BATCH)]

        with self._autocast():
            images = [
                self.model.embed_images(batch.to(self._device)).cpu()
                for batch in probe.images(batched(len(probe)), None)
            ]
            texts = [
                self.model.embed_texts(probe.texts(numbers).to(self._device)).cpu()
                for numbers in batched(len(probe.owners))
            ]
        return recall(probe.name, torch.cat(images).numpy(), torch.cat(texts).numpy(), probe.owners)
