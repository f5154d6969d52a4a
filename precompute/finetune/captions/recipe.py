"""What decides the outcome of a captioner's training, apart from the code that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from core.errors import SourceError
from core.models.spec import Precision

Part = Literal["language", "qformer", "projection"]
"""What can be trained behind the image tower."""

PARTS: tuple[Part, ...] = get_args(Part)

Learns = Literal["all", "shortest", "longest"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt, and which of an image's captions are the right answer to it.

    Attributes:
        text: What the captioner is told.
        learns: ``all`` captions of an image, or its shorter or its longer two fifths.
    """

    text: str
    learns: Learns = "all"

    @classmethod
    def parse(cls, value: str) -> Instruction:
        """Read ``TEXT``, or ``shortest: TEXT``, ``longest: TEXT`` or ``all: TEXT``.

        Raises:
            SourceError: There is no text.
        """
        learns: Learns = "all"
        head, colon, rest = value.partition(":")
        for choice in get_args(Learns):
            if colon and head.strip().lower() == choice:
                learns, value = choice, rest
        text = " ".join(value.split())
        if not text:
            raise SourceError("--prompt is empty: write what the captioner is to be told.")
        return cls(text, learns)

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


LARGE_RANK = 16
"""Of the adapter that a large checkpoint gets unless another is asked for."""

DETAIL_PROMPT = "Describe the image in detail."


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
        alpha: Their product is scaled by ``alpha / rank``.
        dropout: On what enters them.
    """

    rank: int
    alpha: int
    dropout: float = 0.05


@dataclass(frozen=True, slots=True)
class RewardRecipe:
    """Self-critical training: captions of the model's own, made likelier the more they are worth.

    Attributes:
        cider: Weight of CIDEr-D against the image's captions.
        retrieval: Weight of minus the logarithm of the image's rank among all, for the caption.
        samples: Captions drawn for each image; the mean of the others is a caption's baseline.
    """

    cider: float = 1.0
    retrieval: float = 0.0
    samples: int = 5


@dataclass(frozen=True, slots=True)
class LookingRecipe:
    """How a fresh captioner learns to look, then to speak from what was foretold of images.

    Attributes:
        epochs: Passes over the images, for the Q-Former and its projection.
        batch_size: Images in such a batch.
        learning_rate: Peak, likewise.
        folds: Parts of the images, each foretold without having been seen.
        least: Share of what was foretold of the image in what the language model reads to write a
            caption; the rest is what the caption itself would make one expect. Drawn for each
            caption from here on.
        most: Up to here.
        blur: Mean length of the noise on that, whose own length is 1.
    """

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    folds: int = 5
    least: float = 0.2
    most: float = 0.8
    blur: float = 0.3


@dataclass(frozen=True, slots=True)
class CaptionRecipe:
    """What decides the outcome of a training, beside the data and the model.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images in a batch of one process, each with all its captions.
        accumulation: Batches between two steps of the optimiser.
        learning_rate: Peak, for everything behind the image tower.
        vision_learning_rate: Peak, for the blocks of the image tower that are not frozen.
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
        frozen_layers: Blocks of the image tower, from the input on, that are not trained.
        max_tokens: Longer captions are cut; padding costs time.
        views: Fixed views of a training image, of which a batch draws one: as it is, mirrored, then
            random crops.
        trains: Parts behind the image tower whose own weights are trained.
        looking: How a fresh captioner learns to look, and what it speaks from meanwhile; None for
            one that can see, which learns from the images themselves.
        reward: What sampled captions are worth; None learns the captions of people word by word.
        lora: Adapter of the language model, whose own weights then stay; None trains no adapter.
        precision: Of the weights in memory that are not trained.
        instructions: Prompts; the first is drawn for half of the batches.
        seed: Of the order, the dropout and the prompts.
    """

    epochs: int = 7
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 8e-4
    vision_learning_rate: float = 3e-5
    warmup: float = 0.1
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float | None = None
    feature_dropout: float = 0.0
    word_dropout: float = 0.1
    average_decay: float = 0.995
    start_share: float = 0.0
    frozen_layers: int = 10
    max_tokens: int = 20
    views: int = 1
    trains: tuple[Part, ...] = PARTS
    looking: LookingRecipe | None = None
    reward: RewardRecipe | None = None
    lora: LoraRecipe | None = None
    precision: Precision = "fp32"
    instructions: tuple[Instruction, ...] = (Instruction("A short image caption."),)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for about the trained weights; None leaves it to the model and the device.

    Attributes:
        trains: See :class:`CaptionRecipe`.
        lora_rank: See :class:`LoraRecipe`, as the next two.
        lora_alpha: Twice the rank if None.
        lora_dropout: On what enters the adapter.
        precision: See :class:`CaptionRecipe`.
    """

    trains: tuple[Part, ...] | None = None
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float = 0.05
    precision: Precision | None = None

    def applied(self, recipe: CaptionRecipe, *, large: bool, gpu: bool) -> CaptionRecipe:
        """Return the recipe with what was asked for, and sensible values for the rest.

        Args:
            recipe: The rest of it.
            large: Whether the model is too large to train all of it.
            gpu: Whether there is a GPU, on which 8 bits are worth while.

        Raises:
            SourceError: The language model is to be trained in full beside its own adapter.
        """
        rank = self.lora_rank
        if rank is None and large and "language" not in (self.trains or ()):
            rank = LARGE_RANK
        lora = None
        if rank is not None:
            if "language" in (self.trains or ()):
                raise SourceError("--train language and an adapter of it exclude each other.")
            lora = LoraRecipe(rank, self.lora_alpha or 2 * rank, self.lora_dropout)
        return replace(
            recipe,
            lora=lora,
            trains=self.trains if self.trains is not None else () if lora else recipe.trains,
            precision=self.precision or ("int8" if lora and large and gpu else "fp32"),
        )


DEFAULT_RECIPE = CaptionRecipe(looking=LookingRecipe(), trains=("language",))
"""For a fresh language model: nothing in it is worth keeping."""

TUNING_RECIPE = CaptionRecipe(epochs=4, learning_rate=2e-4, word_dropout=0.0, max_tokens=40)
"""For a checkpoint that can caption already."""
