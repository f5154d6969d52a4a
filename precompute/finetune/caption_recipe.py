"""What decides the outcome of a captioner's training, apart from the code that runs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CaptionRecipe:
    """What decides the outcome of a training, beside the data and the model.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images in a batch, each with all its captions.
        learning_rate: Peak, for everything behind the image tower.
        vision_learning_rate: Peak, for the blocks of the image tower that are not frozen.
        warmup: Share of the steps until the peak; a cosine follows.
        weight_decay: On matrices.
        label_smoothing: Of the cross entropy.
        word_dropout: Share of the words that the decoder reads as unknown, so that it must look
            at the image.
        grounding: Weight of the grounding loss beside the cross entropy.
        average_decay: Of the moving average of the weights, which is what is kept.
        frozen_layers: Blocks of the image tower, from the input on, that are not trained.
        seed: Of the order, the dropout and the prompts.
    """

    epochs: int = 7
    batch_size: int = 16
    learning_rate: float = 8e-4
    vision_learning_rate: float = 3e-5
    warmup: float = 0.1
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    word_dropout: float = 0.1
    grounding: float = 0.5
    average_decay: float = 0.995
    frozen_layers: int = 10
    seed: int = 0


DEFAULT_RECIPE = CaptionRecipe()
