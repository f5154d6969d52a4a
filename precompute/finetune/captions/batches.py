"""Image features computed once, and batches of them with all their captions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precompute.finetune.captions.recipe import CaptionRecipe
from precompute.finetune.shared.images import view_of

if TYPE_CHECKING:
    import torch

    from precompute.finetune.shared.data import Pairs

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
        numbers: int64 (captions,): which of its image's captions each is.
        labels: int64 (captions, longest): tokens with the end token; -100 is not trained. Rows
            are sorted by length.
        worth: float32 (captions,): how much better than the image's others each caption is, if the
            model wrote them; None if people did.
        image_tokens: float32 (images, queries, width): what the language model reads instead of
            what the Q-Former makes of the features, which then are not looked at; None is that.
    """

    instruction: int
    rows: torch.Tensor
    features: torch.Tensor
    image_of_caption: torch.Tensor
    numbers: torch.Tensor
    labels: torch.Tensor
    worth: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """What the frozen blocks make of the images of a split, in one or several fixed views.

    Attributes:
        views: float16 (m, tokens, width) each, mapped from disk; the first is of the images as
            they are.
        rows: int64 (n,): where each image of the split is in a view.
    """

    views: tuple[np.ndarray, ...]
    rows: np.ndarray

    @classmethod
    def unseen(cls, count: int) -> Features:
        """Return the features of images that nobody looks at: one token of nothing."""
        return cls((np.zeros((1, 1, 1), dtype=np.float16),), np.zeros(count, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, some: np.ndarray | slice) -> np.ndarray:
        """Return the images as they are, float32 (some, tokens, width)."""
        return self._read(self.rows[some], 0)

    def drawn(self, some: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return each image in a view that is drawn for it, float32 (some, tokens, width)."""
        if len(self.views) == 1:
            return self[some]
        chosen = random.integers(len(self.views), size=len(some))
        found = np.empty((len(some), *self.views[0].shape[1:]), dtype=np.float32)
        for view in range(len(self.views)):
            found[chosen == view] = self._read(self.rows[some[chosen == view]], view)
        return found

    def _read(self, rows: np.ndarray, view: int) -> np.ndarray:
        """Read in the order of the file."""
        order = np.argsort(rows)
        return self.views[view][rows[order]][np.argsort(order)].astype(np.float32)

    def view(self, number: int) -> Features:
        """Return the features of the images in one of the views."""
        return Features((self.views[number],), self.rows)

    def first(self, count: int) -> Features:
        """Return the features of the first images."""
        return Features(self.views, self.rows[:count])


def cached_features(
    model: Any,  # noqa: ANN401 - InstructBlipForConditionalGeneration, imported lazily
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    *,
    frozen_layers: int,
    folder: Path,
    views: int = 1,
    seed: int = 0,
) -> Features:
    """Run the frozen blocks over every view of every image once, or map what an earlier run left.

    The files' names hold digests of the frozen weights, of the image processor and of the data,
    so that a changed tower never meets old features. Images that were chosen out of a source
    whose features are there are found in those.

    Args:
        model: Around the image tower.
        processor: Prepares its images.
        pairs: The images.
        frozen_layers: Blocks to run.
        folder: Of the files.
        views: At least 1; see :func:`~precompute.finetune.shared.images.view_of`.
        seed: Fixes the crops.

    Returns:
        The sequence after ``frozen_layers`` blocks.
    """
    tower_digest = _tower_digest(model, processor, frozen_layers)
    ends = ["", *(f"-view{view}-seed{seed}" for view in range(1, views))]

    def paths(of: Pairs) -> list[Path]:
        return [folder / f"{of.fingerprint}-{tower_digest}{end}.npy" for end in ends]

    source, rows = pairs, np.arange(len(pairs))
    if pairs.whole is not None and all(path.is_file() for path in paths(pairs.whole)):
        source, rows = pairs.whole, np.array(pairs.rows)
    found = paths(source)
    for view, path in enumerate(found):
        if not path.is_file():
            _compute(model, processor, source, frozen_layers, path, view, seed)
    return Features(tuple(np.load(path, mmap_mode="r") for path in found), rows)


def _compute(
    model: Any,  # noqa: ANN401
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    frozen_layers: int,
    path: Path,
    view: int,
    seed: int,
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
    label = f"features of {pairs.name[:40]}" + (f", view {view}" if view else "")
    with tqdm(total=len(pairs), desc=label, unit="img") as progress:
        for start in range(0, len(pairs), _FEATURE_BATCH):
            stop = min(start + _FEATURE_BATCH, len(pairs))
            images = [view_of(pairs.image(i), view, [seed, view, i]) for i in range(start, stop)]
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
    return CaptionBatch(
        instruction=drawn,
        rows=torch.from_numpy(rows),
        features=torch.from_numpy(features.drawn(rows, random)),
        image_of_caption=torch.tensor([image for _, image, _ in texts]),
        numbers=torch.tensor([number for _, _, number in texts]),
        labels=labels,
    )
