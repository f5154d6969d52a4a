"""What decides a distillation's result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DistilRecipe:
    """How a student's image tower learns from its teacher.

    Attributes:
        patch_size: Pixels a side of the student's patches.
        without: Blocks of the teacher that the student lacks, from 0.
        epochs: Passes over the images; a part of one counts.
        batch_size: Images in a step.
        learning_rate: Highest one of AdamW, after a short warm-up, before a cosine to nothing.
            CLIP's weights forget under more: at 1e-4 the likeness fell within 75 steps.
        tokens: Weight of the patches' tokens beside the embedding.
        structure: Weight of the batch's similarities.
        average: Of the moving average of the weights, which is what is kept.
        seed: Of order and mirroring.
    """

    patch_size: int = 32
    without: tuple[int, ...] = ()
    epochs: float = 1.6
    batch_size: int = 32
    learning_rate: float = 2.5e-5
    tokens: float = 0.3
    structure: float = 0.05
    average: float = 0.998
    seed: int = 0


DEFAULT_RECIPE = DistilRecipe()
