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


def fit(
    model: TunedClip,
    recipe: ContrastiveRecipe,
    material: Material,
    probe: Material | None,
    keep: Callable[[], None],
    *,
    out: Path,
    identity: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Train one model by one recipe; a run can stop at any moment and go on.

    Args:
        model: On its device.
        recipe: How to train.
        material: What to learn from.
        probe: Measured after every epoch; R@5 decides which is the best, then R@1.
        keep: See :meth:`~precompute.finetune.shared.loop.Loop.fit`.
        out: Its ``checkpoint`` is what a run goes on from, its ``log`` is for TensorBoard.
        identity: Everything that must be the same for that; JSON values.

    Returns:
        For every epoch: its number, mean loss, temperature and recall.

    Raises:
        SourceError: The checkpoint belongs to another run.
    """
    device = model.image.device
    contrast = SigLipLoss() if recipe.loss == "siglip" else ClipLoss()

    def batches(epoch: int, first: int) -> Iterable[_Batch]:
        model.image.train_unlocked()
        model.text.train_unlocked()
        seed = recipe.seed * 1_000_003 + epoch
        plan = plan_epoch(material, recipe.batch_size, seed)[first:]
        images = material.images((rows.tolist() for rows, _ in plan), seed)
        return zip(images, (captions for _, captions in plan), strict=True)

    def backward(batch: _Batch) -> dict[str, float]:
        images, captions = batch
        with torch.no_grad():
            model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        texts = material.texts(captions.tolist())
        with _autocast(device):
            image_rows = model.embed_images(images.to(device))
            text_rows = model.embed_texts(texts.to(device))
        loss = contrast(image_rows, text_rows, model.logit_scale.exp(), model.logit_bias)
        loss.backward()
        return {"loss": loss.item()}

    def measure() -> tuple[dict[str, Any], Sequence[float]]:
        assert probe is not None
        found = _recall(model, probe)
        scale = float(model.logit_scale.detach().exp())
        return {"logit_scale": scale, "recall": found.as_json()}, [found.at_5, found.at_1]

    schedule = Schedule(
        epochs=recipe.epochs,
        steps=len(material) // recipe.batch_size,
        warmup=recipe.warmup,
        max_norm=None,
        patience=recipe.patience,
        seed=recipe.seed,
    )
    loop = Loop[_Batch](
        model.changing(),
        model.optimizer_groups(recipe),
        schedule,
        folder=out / "checkpoint",
        identity=identity,
        log=out / "log",
    )
    return loop.fit(batches, backward, measure if probe is not None else None, keep)


def _autocast(device: torch.device) -> torch.autocast:
    is_fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fast)


def batched(count: int) -> list[range]:
    """Return the numbers below ``count`` in parts that are measured at once."""
    return [range(count)[i : i + _PROBE_BATCH] for i in range(0, count, _PROBE_BATCH)]


@torch.inference_mode()
def _recall(model: TunedClip, probe: Material) -> Recall:
    """Search every caption among all images, whole."""
    model.eval()
    device = model.image.device

    with _autocast(device):
        images = [
            model.embed_images(batch.to(device)).cpu()
            for batch in probe.images(batched(len(probe)), None)
        ]
        texts = [
            model.embed_texts(probe.texts(numbers).to(device)).cpu()
            for numbers in batched(len(probe.owners))
        ]
    return recall(probe.name, torch.cat(images).numpy(), torch.cat(texts).numpy(), probe.owners)
