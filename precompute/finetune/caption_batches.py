"""Image features computed once, and batches of them with all their captions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precompute.finetune.caption_recipe import CaptionRecipe

if TYPE_CHECKING:
    import torch

    from precompute.finetune.data import Pairs

_FEATURE_BATCH = 16
Tokens = Sequence[Sequence[Sequence[int]]]
"""Of every image, of each of its captions, the token ids."""


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Some images and those of their captions that answer one prompt.

    Attributes:
        instruction: Number of the prompt.
        rows: int64 (images,): which images of the split they are.
        features: float32 (images, tokens, width): what the frozen blocks make of the images.
        image_of_caption: int64 (captions,): row of ``features`` that each caption describes.
        labels: int64 (captions, longest): tokens with the end token; -100 is not trained. Rows
            are sorted by length.
    """

    instruction: int
    rows: torch.Tensor
    features: torch.Tensor
    image_of_caption: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """What the frozen blocks make of the images of a split.

    Attributes:
        values: float16 (m, tokens, width), mapped from disk.
        rows: int64 (n,): where each image of the split is in ``values``.
    """

    values: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, some: np.ndarray | slice) -> np.ndarray:
        """Return float32 (some, tokens, width), read in the order of the file."""
        rows = self.rows[some]
        order = np.argsort(rows)
        return self.values[rows[order]][np.argsort(order)].astype(np.float32)

    def first(self, count: int) -> Features:
        """Return the features of the first images."""
        return Features(self.values, self.rows[:count])


def cached_features(
    model: Any,  # noqa: ANN401 - InstructBlipForConditionalGeneration, imported lazily
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    *,
    frozen_layers: int,
    folder: Path,
) -> Features:
    """Run the frozen blocks over every image once, or map what an earlier run left.

    The file's name holds digests of the frozen weights, of the image processor and of the data,
    so that a changed tower never meets old features. Images that were chosen out of a source
    whose features are there are found in those.

    Returns:
        The sequence after ``frozen_layers`` blocks.
    """
    tower_digest = _tower_digest(model, processor, frozen_layers)
    if pairs.whole is not None:
        path = folder / f"{pairs.whole.fingerprint}-{tower_digest}.npy"
        if path.is_file():
            return Features(np.load(path, mmap_mode="r"), np.array(pairs.rows))
    path = folder / f"{pairs.fingerprint}-{tower_digest}.npy"
    if not path.is_file():
        _compute(model, processor, pairs, frozen_layers, path)
    return Features(np.load(path, mmap_mode="r"), np.arange(len(pairs)))


def _compute(
    model: Any,  # noqa: ANN401
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    frozen_layers: int,
    path: Path,
) -> None:
    import torch
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    tower = model.vision_model
    device = next(tower.parameters()).device
    tokens, width = tower.embeddings.num_positions, tower.config.hidden_size
    partial = path.with_suffix(".partial")
    # Mapped, not held: 6,000 images of 257 tokens are over a gigabyte.
    rows = np.lib.format.open_memmap(
        partial, mode="w+", dtype=np.float16, shape=(len(pairs), tokens, width)
    )
    with tqdm(total=len(pairs), desc=f"features of {pairs.name[:40]}", unit="img") as progress:
        for start in range(0, len(pairs), _FEATURE_BATCH):
            stop = min(start + _FEATURE_BATCH, len(pairs))
            images = [pairs.image(i) for i in range(start, stop)]
            pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                hidden = tower.embeddings(pixels.to(device))
                for block in tower.encoder.layers[:frozen_layers]:
                    hidden = block(hidden)
            rows[start:stop] = hidden.float().cpu().numpy()
            progress.update(stop - start)
    rows.flush()
    partial.replace(path)


def _tower_digest(model: Any, processor: Any, frozen_layers: int) -> str:  # noqa: ANN401
    digest = hashlib.sha256(processor.image_processor.to_json_string().encode())
    tower = model.vision_model
    for module in (tower.embeddings, *tower.encoder.layers[:frozen_layers]):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


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
    features: Features,
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
        rank: Number of this process.
        world: Processes that share the epoch. The first images come again where the last batches
            would leave a process idle.
    """
    order = np.random.default_rng(seed).permutation(len(tokens))
    count = batches_of(len(tokens), recipe, world)
    if world > 1:
        order = np.resize(order, count * world * recipe.batch_size)
    for number in range(first, count):
        start = (number * world + rank) * recipe.batch_size
        rows = order[start : start + recipe.batch_size]
        yield _batch(features, tokens, recipe, rows, unknown, [seed, number, rank])


def _batch(
    features: Features,
    tokens: Tokens,
    recipe: CaptionRecipe,
    rows: np.ndarray,
    unknown: int | None,
    seed: list[int],
) -> CaptionBatch:
    import torch

    others = len(recipe.instructions) - 1
    random = np.random.default_rng(seed)
    drawn = 0 if not others or random.random() < 0.5 else 1 + int(random.integers(others))
    instruction = recipe.instructions[drawn]
    # By length, so that the loss can cut the batch into parts with little padding.
    answers = (instruction.answers(tokens[row]) for row in rows)
    texts = sorted(
        ((ids, image) for image, some in enumerate(answers) for ids in some),
        key=lambda text: len(text[0]),
    )
    labels = torch.full((len(texts), len(texts[-1][0])), -100)
    for line, (ids, _) in enumerate(texts):
        labels[line, : len(ids)] = torch.tensor(ids)
    if unknown is not None:
        labels[labels == unknown] = -100
    return CaptionBatch(
        instruction=drawn,
        rows=torch.from_numpy(rows),
        features=torch.from_numpy(features[rows]),
        image_of_caption=torch.tensor([image for _, image in texts]),
        labels=labels,
    )
