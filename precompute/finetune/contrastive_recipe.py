"""How a contrastive run learns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides the data that decides what a run learns.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images a step; each is contrasted with all others of its batch.
        learning_rate: Highest of a one-cycle schedule.
        weight_decay: Of AdamW.
        dropout: Share of the image features that is dropped in training.
        logit_scale: Inverse temperature at the start; it is learned.
        views: Fixed views of every image, see
            :func:`precompute.finetune.frozen_features.image_features`.
        seed: Fixes views, order, captions, dropout and new projections.
    """

    epochs: int = 60
    batch_size: int = 500
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    dropout: float = 0.6
    logit_scale: float = 14.0
    views: int = 3
    seed: int = 0


DEFAULT_RECIPE = Recipe()
"""What was found best for the shipped ``mini-clip``."""
