"""What a contrastive run starts and learns from, read and put onto its device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image, Transpose

from core.errors import SourceError
from core.models.clip.towers import ClipFiles, load_image_tower, load_text_tower, new_text_tower
from precompute.evaluate.metrics.retrieval_metrics import owners_of
from precompute.finetune.clip.asset import reset_head, start_of_logits
from precompute.finetune.clip.recipe import ContrastiveRecipe
from precompute.finetune.clip.towers import Tower, TunedClip
from precompute.finetune.clip.training import Material, Rows
from precompute.finetune.shared.features import cached_features, digest
from precompute.sources.pairs import Pairs

SMALLEST_CROP = 0.5
"""Smallest share of the area that a cropped view keeps."""


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        start: The model to start from.
        pairs: Images with captions to train on.
        measured: Where to measure; the first decides which epoch is kept.
        new_text_head: Whether the text head starts from random weights.
    """

    start: ClipFiles
    pairs: Pairs
    measured: Sequence[Pairs] = ()
    new_text_head: bool = False


def prepare(
    inputs: Inputs, recipe: ContrastiveRecipe, device: str, cache: Path
) -> tuple[TunedClip, Callable[[Pairs], Material]]:
    """Build the model; return it, and what gives images with captions as it takes them.

    Args:
        inputs: What to start and to learn from.
        recipe: How to train.
        device: Where.
        cache: Folder of what is computed once.

    Raises:
        SourceError: Nothing is left to train.
    """
    start = inputs.start
    image_tower = load_image_tower(start)
    packaged = (start.model_cfg["text_cfg"].get("hf_model_name") or "").startswith("package:")
    # Where all of a text tower is new or in a package, its weights need not be in the file.
    bare = inputs.new_text_head and packaged
    text_tower = new_text_tower(start) if bare else load_text_tower(start)
    image = Tower(
        image_tower.module,
        unlocked=recipe.unlock_image,
        lock_head=recipe.lock_image_head,
        dropout=recipe.dropout,
        checkpointing=recipe.gradient_checkpointing,
    )
    text = Tower(
        text_tower.module,
        unlocked=recipe.unlock_text,
        lock_head=recipe.lock_text_head,
        checkpointing=recipe.gradient_checkpointing,
    )
    if inputs.new_text_head:
        reset_head(text.head, recipe.seed)
    siglip = recipe.loss == "siglip"
    scale = 14.0 if inputs.new_text_head and not siglip else None
    logit_scale, bias = start_of_logits(start, scale=scale, siglip=siglip)
    model = TunedClip(image, text, logit_scale, bias, train_bias=siglip)
    if set(model.trained()) <= {"logit_scale", "logit_bias"}:
        raise SourceError("Towers and heads are all locked: nothing is left to train.")
    model.to(device)

    def material(pairs: Pairs) -> Material:
        images = _image_reader(image, image_tower.preprocess, pairs, cache)
        texts = _text_reader(text, text_tower.tokenize, pairs, cache)
        return Material(pairs.name, images, texts, owners_of(pairs))

    return model, material


def _image_reader(
    tower: Tower, preprocess: Callable[[Image], torch.Tensor], pairs: Pairs, cache: Path
) -> Callable[[Iterable[Rows], int | None], Iterator[torch.Tensor]]:
    if not tower.body_is_locked:
        return partial(read_pixels, pairs, preprocess)

    def encode(rows: Sequence[int]) -> torch.Tensor:
        pixels = torch.stack([preprocess(pairs.image(row)) for row in rows])
        return tower.features(pixels.to(tower.device, memory_format=torch.channels_last))

    key = digest([pairs.fingerprint, len(pairs), repr(preprocess)], tower.body_state())
    path, label = cache / f"image-{key}.npy", f"features of {pairs.name[:40]}"
    found = cached_features(encode, range(len(pairs)), path, label=label)
    features = torch.from_numpy(np.array(found))
    return lambda batches, _: (features[list(rows)] for rows in batches)


def _text_reader(
    tower: Tower, tokenize: Callable[[Sequence[str]], torch.Tensor], pairs: Pairs, cache: Path
) -> Callable[[Sequence[int]], torch.Tensor]:
    captions = [caption for of_one in pairs.captions for caption in of_one]
    if not tower.body_is_locked:
        return lambda numbers: tokenize([captions[number] for number in numbers])

    def encode(rows: Sequence[int]) -> torch.Tensor:
        return tower.features(tokenize([captions[row] for row in rows]).to(tower.device))

    path = cache / f"text-{digest(captions, tower.body_state())}.npy"
    # Texts of like length side by side waste the least padding.
    order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
    label = "features of captions"
    found = cached_features(encode, order, path, batch=128, label=label)
    features = torch.from_numpy(np.array(found))
    return lambda numbers: features[list(numbers)]


def cropped(image: Image, seed: Sequence[int]) -> Image:
    """Return a random crop of an image, mirrored half of the time."""
    random = np.random.default_rng(seed)
    # Both sides shrink on their own, so the area and the aspect vary together.
    shares = np.sqrt(random.uniform(SMALLEST_CROP, 1, 2))
    width, height = (
        max(1, round(side * share)) for side, share in zip(image.size, shares, strict=True)
    )
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    image = image.crop((left, top, left + width, top + height))
    return image.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def read_pixels(
    pairs: Pairs,
    preprocess: Callable[[Image], torch.Tensor],
    batches: Iterable[Rows],
    seed: int | None,
    workers: int | None = None,
) -> Iterator[torch.Tensor]:
    """Yield float32 (n, 3, height, width) for each batch of rows, one batch read ahead.

    Args:
        pairs: The images.
        preprocess: Maps an RGB image to float pixels (3, height, width).
        batches: Rows of images.
        seed: Fixes the crops; None leaves the images whole.
        workers: Threads; by default one a core.

    Raises:
        ImageError: An image cannot be decoded.
    """

    def read(row: int) -> torch.Tensor:
        image = pairs.image(row)
        return preprocess(image if seed is None else cropped(image, [seed, row]))

    def stack(batch: Iterable[Future[torch.Tensor]]) -> torch.Tensor:
        pixels = torch.stack([item.result() for item in batch])
        # Convolutions run up to twice as fast with the channels innermost.
        return pixels.contiguous(memory_format=torch.channels_last)

    pool = ThreadPoolExecutor(workers or os.cpu_count())
    ahead: list[Future[torch.Tensor]] = []
    try:
        for rows in batches:
            ready, ahead = ahead, [pool.submit(read, row) for row in rows]
            if ready:
                yield stack(ready)
        if ahead:
            yield stack(ahead)
    finally:
        pool.shutdown(cancel_futures=True)
