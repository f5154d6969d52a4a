"""What a contrastive run minimises: image against text, and student against teacher."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn
from torch.nn import functional

from precompute.finetune.clip.recipe import Distillation, LossName, Recipe

_SHARPNESS = 20.0
"""Inverse temperature of the similarities that a student copies."""


class Criterion(nn.Module):
    """open_clip's losses for images that have several captions each, with distillation.

    With several captions an image, the loss is the mean over the first captions of all images,
    the second ones and so on: an image is never contrasted with another caption of its own.

    Args:
        recipe: Which loss, and how much the teacher counts.
        rank: Number of this process.
        world_size: Processes; each holds a part of the batch and sees the captions of all.
    """

    def __init__(self, recipe: Recipe, rank: int = 0, world_size: int = 1) -> None:
        """Make the contrastive loss."""
        super().__init__()
        self.recipe = recipe
        self.contrast: nn.Module
        if recipe.loss is LossName.siglip:
            self.contrast = SigLipLoss(rank=rank, world_size=world_size)
        else:
            self.contrast = ClipLoss(
                local_loss=world_size > 1,
                gather_with_grad=world_size > 1,
                rank=rank,
                world_size=world_size,
            )

    def forward(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        teacher: torch.Tensor | None,
    ) -> Mapping[str, torch.Tensor]:
        """Return float32 () tensors: ``loss``, and its parts ``contrastive`` and ``distillation``.

        Args:
            images: float32 (n + unlabelled, dim), unit norm, the captioned ones first.
            texts: float32 (captions an image, n, dim), unit norm.
            scale: Inverse temperature.
            bias: Of the logits; SigLIP needs it.
            teacher: float32 (n + unlabelled, teacher's dim), unit norm; None learns from captions
                alone.
        """
        captioned = images[: texts.shape[1]]
        contrastive = torch.stack(
            [self.contrast(captioned, of_each, scale, bias) for of_each in texts]
        ).mean()
        if teacher is None:
            return {"loss": contrastive, "contrastive": contrastive}
        distillation = distillation_loss(images, teacher, self.recipe.distillation)
        total = contrastive + self.recipe.distill_weight * distillation
        return {"loss": total, "contrastive": contrastive, "distillation": distillation}


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, kind: Distillation
) -> torch.Tensor:
    """Return how far a student's embeddings are from a teacher's: float32 (), 0 when equal.

    Args:
        student: (n, dim), unit norm.
        teacher: (n, teacher's dim), unit norm.
        kind: ``cosine`` compares each embedding with the teacher's own, which takes equal
            dimensions; ``similarity`` compares whom each image is like in the batch; ``auto`` does
            both where it can.
    """
    parts = []
    if kind is not Distillation.similarity and student.shape[1] == teacher.shape[1]:
        parts.append(1 - (student * teacher).sum(dim=1).mean())
    if kind is not Distillation.cosine and len(student) > 1:
        parts.append(_similarity_loss(student, teacher))
    return torch.stack(parts).sum()


def _similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    # An image is most like itself, which teaches nothing.
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    learned = (_SHARPNESS * student @ student.T)[~own].view(len(student), -1).log_softmax(dim=1)
    taught = (_SHARPNESS * teacher @ teacher.T)[~own].view(len(student), -1).log_softmax(dim=1)
    return functional.kl_div(learned, taught, reduction="batchmean", log_target=True)
