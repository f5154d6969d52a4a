"""What decides the outcome of a CLIP model's training, apart from the code that runs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

ALL = -1
"""As a number of unlocked groups: every weight of the tower."""


@dataclass(frozen=True, slots=True)
class ContrastiveRecipe:
    """What decides the outcome of a training, beside the data and the model.

    The defaults train the heads of locked towers.

    Attributes:
        epochs: Most passes over the images.
        batch_size: Images a step; each is contrasted with all others of its batch.
        learning_rate: Peak, of the heads.
        tower_learning_rate: Peak, of what is unlocked of the towers.
        warmup: Share of the steps until the peak; a cosine follows.
        weight_decay: Of weights of two or more dimensions.
        dropout: Share of a locked image tower's features that is dropped in training.
        loss: open_clip's contrastive loss: symmetric InfoNCE, or SigLIP's sigmoid loss.
        unlock_image: Last groups of the image tower that are trained; 0 locks it, -1 is all of it.
        unlock_text: Likewise, of the text tower.
        lock_image_head: Whether the image head keeps its weights too.
        lock_text_head: Likewise, the text head.
        gradient_checkpointing: Whether unlocked towers compute activations again: less memory, more
            time.
        patience: Epochs without a better R@5 after which the run stops; None never stops early.
        seed: Fixes views, order, captions, dropout and new heads.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epochs: Annotated[int, Ge(1)] = 60
    batch_size: Annotated[int, Ge(2)] = 500
    learning_rate: Annotated[float, Ge(0)] = 2e-3
    tower_learning_rate: Annotated[float, Ge(0)] = 1e-5
    warmup: Annotated[float, Ge(0), Le(1)] = 0.3
    weight_decay: Annotated[float, Ge(0)] = 0.01
    dropout: Annotated[float, Ge(0), Le(1)] = 0.6
    loss: Literal["infonce", "siglip"] = "infonce"
    unlock_image: Annotated[int, Ge(ALL)] = 0
    unlock_text: Annotated[int, Ge(ALL)] = 0
    lock_image_head: bool = False
    lock_text_head: bool = False
    gradient_checkpointing: bool = False
    patience: Annotated[int, Ge(1)] | None = None
    seed: Annotated[int, Ge(0)] = 0


HEADS = ContrastiveRecipe()

RECIPES: dict[str, ContrastiveRecipe] = {
    "heads": HEADS,
    "towers": replace(
        HEADS, epochs=10, batch_size=128, learning_rate=1e-4, unlock_image=ALL, unlock_text=ALL
    ),
    "mini-clip": replace(HEADS, epochs=30, learning_rate=1e-3, dropout=0.4),
}
"""By name, for ``--recipe``: the heads of locked towers, which is the default; all weights; what
made the shipped ``mini-clip``."""
