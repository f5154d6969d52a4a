"""How a contrastive run learns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

ALL = -1
"""As a number of unlocked groups: every weight of the tower."""

FEW_VIEWS = 3
"""Fixed views where each is computed beforehand."""

FRESH_VIEWS = 1 << 20
"""So many views of an image that hardly any is drawn twice."""


class LossName(str, Enum):
    """Which contrastive loss; see :class:`precompute.finetune.clip.loss.Criterion`."""

    infonce = "infonce"
    siglip = "siglip"


class Distillation(str, Enum):
    """What a student learns from its teacher's embeddings."""

    auto = "auto"
    cosine = "cosine"
    similarity = "similarity"


Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides models and data that decides what a run learns.

    The defaults are what was found best for the shipped ``mini-clip``, whose towers are locked.

    Attributes:
        epochs: Most passes over the images.
        batch_size: Images a step; each is contrasted with all others of its batch.
        learning_rate: Of the heads, the highest of a one-cycle schedule.
        tower_learning_rate: Likewise, of what is unlocked of the towers.
        weight_decay: Of AdamW, for weights of two or more dimensions.
        dropout: Share of a locked image tower's features that is dropped in training.
        logit_scale: Inverse temperature at the start; it is learned. None takes the model's own.
        views: Of every image, see :func:`precompute.finetune.shared.images.view_of`. None takes 3,
            or new ones in every epoch where the image tower is trained without a teaching model.
        loss: Which contrastive loss.
        captions_per_image: Captions of each image in a step, drawn anew every epoch.
        unlock_image: Last groups of the image tower that are trained; 0 locks it, ``ALL`` none.
        unlock_text: Likewise, of the text tower.
        lock_image_head: Whether the image head keeps its weights too.
        lock_text_head: Likewise, the text head.
        accumulation: Parts in which a batch runs through the towers; its negatives stay all.
        grad_checkpointing: Whether activations are computed again instead of kept.
        distill_weight: Weight of the teacher's loss beside the contrastive one.
        distillation: What is learned from the teacher.
        precision: In which the towers compute; losses and weights are always fp32.
        patience: Epochs without a better R@5 after which the run stops; None never stops early.
        seed: Fixes views, order, captions, dropout and new projections.
    """

    epochs: int = 60
    batch_size: int = 500
    learning_rate: float = 2e-3
    tower_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    dropout: float = 0.6
    logit_scale: float | None = None
    views: int | None = None
    loss: LossName = LossName.infonce
    captions_per_image: int = 1
    unlock_image: int = 0
    unlock_text: int = 0
    lock_image_head: bool = False
    lock_text_head: bool = False
    accumulation: int = 1
    grad_checkpointing: bool = False
    distill_weight: float = 1.0
    distillation: Distillation = Distillation.auto
    precision: Precision = "fp32"
    patience: int | None = None
    seed: int = 0


HEADS_RECIPE = Recipe()
"""Defaults where both towers are locked."""

TOWERS_RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=1e-4)
"""Defaults where a tower is trained."""
