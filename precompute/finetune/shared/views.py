"""Views of training images: mirrored and cropped, read ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL.Image import Transpose

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from precompute.sources.pairs import Pairs

SMALLEST_CROP = 0.5
"""Smallest share of the area that a cropped view keeps."""


def view_of(image: Image, view: int, seed: Sequence[int]) -> Image:
    """Return the image itself for view 0, else a random crop of it, mirrored half of the time."""
    import numpy as np

    if view == 0:
        return image
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
    batches: Iterable[tuple[Sequence[int], Sequence[int]]],
    *,
    seed: int,
    workers: int = 1,
) -> Iterator[torch.Tensor]:
    """Yield float32 (n, 3, height, width) for each batch of rows and views, a batch ahead.

    Args:
        pairs: The images.
        preprocess: Maps an RGB image to float pixels (3, height, width).
        batches: Rows of images, and the view of each.
        seed: Fixes the crops.
        workers: Threads.

    Raises:
        ImageError: An image cannot be decoded.
    """
    import torch

    def read(row: int, view: int) -> torch.Tensor:
        return preprocess(view_of(pairs.image(row), view, [seed, view, row]))

    def stack(batch: Iterable[Future[torch.Tensor]]) -> torch.Tensor:
        pixels = torch.stack([item.result() for item in batch])
        # Convolutions run up to twice as fast with the channels innermost.
        return pixels.contiguous(memory_format=torch.channels_last)

    waiting: deque[list[Future[torch.Tensor]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for rows, views in batches:
            waiting.append([pool.submit(read, *each) for each in zip(rows, views, strict=True)])
            if len(waiting) > 1:
                yield stack(waiting.popleft())
        while waiting:
            yield stack(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
