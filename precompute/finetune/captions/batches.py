"""Image features computed once, and batches of them with all their captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precompute.finetune.captions.recipe import CaptionRecipe
from precompute.finetune.shared.features import cached_features, digest

if TYPE_CHECKING:
    import torch

    from precompute.sources.pairs import Pairs

Tokens = Sequence[Sequence[Sequence[int]]]
"""Of every image, of each of its captions, the token ids."""


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Some images and those of their captions that answer one prompt.

    Attributes:
        instruction: Number of the prompt.
        rows: int64 (images,): which images of the split they are.
        features: float32 (images, tokens, width): what the image tower's blocks make of them.
        image_of_caption: int64 (captions,): row of ``features`` that each caption describes.
        numbers: int64 (captions,): which of its image's captions each is.
        labels: int64 (captions, longest): tokens with the end token; -100 is not trained. Rows
            are sorted by length.
        image_tokens: float32 (images, queries, width): what the language model reads instead of
            what the Q-Former makes of the features, which then are not looked at; None is that.
    """

    instruction: int
    rows: torch.Tensor
    features: torch.Tensor
    image_of_caption: torch.Tensor
    numbers: torch.Tensor
    labels: torch.Tensor
    image_tokens: torch.Tensor | None = None


def encoded_images(
    model: Any,  # noqa: ANN401 - InstructBlipForConditionalGeneration, imported lazily
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    folder: Path,
) -> np.ndarray:
    """Run the image tower's blocks over every image once, or map what an earlier run left.

    Args:
        model: Around the image tower.
        processor: Prepares its images.
        pairs: The images.
        folder: Of the file. Its name holds digests of the tower, the processor and the data.

    Returns:
        float16 (n, tokens, width), before the last layer norm.
    """
    tower = model.vision_model
    device = next(tower.parameters()).device

    def encode(rows: Sequence[int]) -> torch.Tensor:
        images = [pairs.image(row) for row in rows]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        hidden = tower.embeddings(pixels.to(device))
        for block in tower.encoder.layers:
            hidden = block(hidden)
        return hidden

    blocks = {n: t for n, t in tower.state_dict().items() if not n.startswith("post_layernorm")}
    key = digest([processor.image_processor.to_json_string()], blocks)
    path = folder / f"{pairs.fingerprint}-{key}.npy"
    return cached_features(encode, range(len(pairs)), path, label=f"features of {pairs.name[:40]}")


def tokenise_captions(
    tokenizer: Any,  # noqa: ANN401
    captions: Sequence[Sequence[str]],
    max_tokens: int,
) -> list[list[list[int]]]:
    """Return the token ids of each image's captions, cut to ``max_tokens``, end token last."""
    end = tokenizer.eos_token_id
    return [
        [
            [*ids[: max_tokens - 1], end]
            for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ]
        for texts in captions
    ]


def batches_of(images: int, recipe: CaptionRecipe, world: int = 1) -> int:
    """Return how many batches each of ``world`` processes sees in an epoch: the same for all."""
    return math.ceil(images / (recipe.batch_size * world))


def epoch_batches(
    features: np.ndarray,
    tokens: Tokens,
    recipe: CaptionRecipe,
    *,
    unknown: int | None,
    seed: int,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[CaptionBatch]:
    """Yield every image once, in an order that depends on ``seed`` only.

    Args:
        features: Of the images.
        tokens: Of the images.
        recipe: Its batch size and prompts; a last batch may be smaller.
        unknown: Id of the unknown word, which is not trained.
        seed: Of the order and of the prompts.
        first: Batches to leave out, for they were seen before a stop.
        rank: Number of this process, of ``world``. The first images come again where the last
            batches would leave a process idle.
        world: Processes that share the epoch.
    """
    import torch

    order = np.random.default_rng(seed).permutation(len(tokens))
    count = batches_of(len(tokens), recipe, world)
    if world > 1:
        order = np.resize(order, count * world * recipe.batch_size)
    others = len(recipe.instructions) - 1
    for number in range(first, count):
        start = (number * world + rank) * recipe.batch_size
        rows = order[start : start + recipe.batch_size]
        random = np.random.default_rng([seed, number, rank])
        drawn = 0 if not others or random.random() < 0.5 else 1 + int(random.integers(others))
        instruction = recipe.instructions[drawn]
        # By length, so that the loss can cut the batch into parts with little padding.
        texts = sorted(
            (
                (tokens[row][number], image, number)
                for image, row in enumerate(rows)
                for number in instruction.chosen(tokens[row])
            ),
            key=lambda text: len(text[0]),
        )
        labels = torch.full((len(texts), len(texts[-1][0])), -100)
        for line, (ids, _, _) in enumerate(texts):
            labels[line, : len(ids)] = torch.tensor(ids)
        if unknown is not None:
            labels[labels == unknown] = -100
        yield CaptionBatch(
            instruction=drawn,
            rows=torch.from_numpy(rows),
            features=torch.from_numpy(features[rows].astype(np.float32)),
            image_of_caption=torch.tensor([image for _, image, _ in texts]),
            numbers=torch.tensor([number for _, _, number in texts]),
            labels=labels,
        )
