"""What decides the outcome of a captioner's training, apart from the code that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, get_args

from annotated_types import Ge, Le

from core.errors import SourceError
from core.models.spec import Precision

Part = Literal["language", "qformer", "projection"]
"""What can be trained behind the image tower."""

PARTS: tuple[Part, ...] = get_args(Part)

DETAIL_PROMPT = "Describe the image in detail."

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt, and which of an image's captions are the right answer to it.

    Attributes:
        text: What the captioner is told.
        learns: ``all`` captions of an image, or its shorter or its longer two fifths.
    """

    text: str
    learns: Literal["all", "shortest", "longest"] = "all"

    def chosen(self, captions: Sequence[Sequence[object]]) -> list[int]:
        """Return which of an image's captions, as words or tokens, answer this prompt."""
        if self.learns == "all":
            return list(range(len(captions)))
        ordered = sorted(
            range(len(captions)),
            key=lambda number: len(captions[number]),
            reverse=self.learns == "longest",
        )
        return ordered[: max(1, len(ordered) * 2 // 5)]


def default_instructions(prompt: str, retry_prompt: str) -> tuple[Instruction, ...]:
    """Return what is taught unless prompts are given.

    The main prompt learns from all captions, as the score it is measured by counts them all; the
    prompt of a second attempt from the shorter ones, where there is less to be wrong about.
    """
    taught = (
        Instruction(prompt),
        Instruction(retry_prompt, "shortest"),
        Instruction(DETAIL_PROMPT, "longest"),
    )
    return tuple({instruction.text: instruction for instruction in reversed(taught)}.values())[::-1]


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """An adapter of low rank beside every linear layer of the language model.

    Attributes:
        rank: Of the two matrices.
        alpha: Their product is scaled by ``alpha / rank``; None is twice the rank.
        dropout: On what enters them.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    rank: Count
    alpha: Count | None = None
    dropout: Share = 0.05


@dataclass(frozen=True, slots=True)
class CaptionRecipe:
    """What decides the outcome of a training, beside the data and the model.

    The defaults go on training a checkpoint that can caption already.

    Attributes:
        epochs: Passes over the images; 0 only measures.
        batch_size: Images in a batch of one process, each with all its captions.
        accumulation: Batches between two steps of the optimiser.
        learning_rate: Peak.
        warmup: Share of the steps until the peak; a cosine follows.
        weight_decay: On matrices.
        label_smoothing: Of the cross entropy.
        dropout: Share of the language model's inner values that is dropped in training; None leaves
            it as the checkpoint has it.
        feature_dropout: Share of the image tower's output that is dropped in training.
        word_dropout: Share of the words that the decoder reads as unknown, so that it must look
            at the image.
        average_decay: Of the moving average of the weights, which is what is kept.
        start_share: Share in what is kept of the weights that the training started from.
        max_tokens: Longer captions are cut; padding costs time.
        patience: Epochs without a better score after which it ends; None runs them all.
        probe: Validation images captioned greedily after each epoch; the end is measured on all.
        trains: Parts behind the image tower whose own weights are trained; None is all of them, or
            none beside an adapter.
        lora: Adapter of the language model, whose own weights then stay; None trains no adapter.
        precision: Of the weights in memory that are not trained; None is int8 under an adapter of
            a large model on a GPU, else float32.
        gradient_checkpointing: Whether activations are computed again: less memory, more time.
        instructions: Prompts; the first is drawn for half of the batches. Empty are those of the
            checkpoint, and one that asks for detail.
        seed: Of the order, the dropout and the prompts.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epochs: Annotated[int, Ge(0)] = 4
    batch_size: Count = 16
    accumulation: Count = 1
    learning_rate: Amount = 2e-4
    warmup: Share = 0.1
    weight_decay: Amount = 0.05
    label_smoothing: Share = 0.1
    dropout: Share | None = None
    feature_dropout: Share = 0.0
    word_dropout: Share = 0.0
    average_decay: Share = 0.995
    start_share: Share = 0.0
    max_tokens: Annotated[int, Ge(2)] = 40
    patience: Count | None = None
    probe: Count = 300
    trains: tuple[Part, ...] | None = None
    lora: LoraRecipe | None = None
    precision: Precision | None = None
    gradient_checkpointing: bool = False
    instructions: tuple[Instruction, ...] = field(default=())
    seed: Annotated[int, Ge(0)] = 0

    def completed(self, *, large: bool, gpu: bool) -> CaptionRecipe:
        """Return the recipe with values for what it leaves to the model and the machine.

        Args:
            large: Whether the model is too large to train all of it.
            gpu: Whether there is a GPU, on which 8 bits are worth while.

        Raises:
            SourceError: The language model is to be trained in full beside its own adapter, or
                there is nothing to train.
        """
        whole = "language" in (self.trains or ())
        lora = self.lora
        if lora is None and large and not whole:
            lora = LARGE_LORA
        if lora is not None and whole:
            raise SourceError("The language model and an adapter of it cannot be trained at once.")
        precision = self.precision or ("int8" if lora and large and gpu else "fp32")
        trains = self.trains if self.trains is not None else () if lora else PARTS
        if self.epochs and lora is None and not trains:
            raise SourceError("The recipe trains nothing: name parts under trains.")
        if self.epochs and lora is None and precision == "int8":
            raise SourceError("Weights in int8 cannot be trained; add an adapter with --lora-rank.")
        return replace(self, lora=lora, precision=precision, trains=trains)


LARGE_LORA = LoraRecipe(16)
"""Adapter that a large checkpoint gets unless its weights are asked for."""

RECIPES: dict[str, CaptionRecipe] = {
    "default": CaptionRecipe(),
    "adapter": CaptionRecipe(learning_rate=2e-3, lora=LoraRecipe(8), trains=("projection",)),
    "small-gpu": CaptionRecipe(
        batch_size=4, accumulation=4, lora=LARGE_LORA, gradient_checkpointing=True
    ),
}
"""By name, for ``--recipe``: all weights, or an adapter of a large model, which is the default;
a small adapter of a small model; a large model on little memory."""
