"""Whether the map of a picture's patches shows what CLIP looks at: deletion and insertion.

The patches that speak most for a caption are greyed out first, or are the first to be seen on grey.
The cosine to the caption should then fall, or rise, sooner than in a random order (Petsiuk et al.
2018, https://arxiv.org/abs/1806.07421).
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import ModelError
from precompute.bench.shared.figures import Figure, Say, result
from precompute.sources.pairs import load_pairs

if TYPE_CHECKING:
    import torch

    from core.config import ProfileName
    from core.models.clip.encoder import ClipEncoder

_STEPS = 8
_TARGET_MS = 150.0


def explanations(
    source: str, photos: int, name: ProfileName, say: Say, device: str = "auto"
) -> dict[str, Any]:
    """Grey out and show patches of photos by their relevance for a caption, and at random.

    Args:
        source: Photos with captions; the first caption of each is the query.
        photos: How many, spread evenly over the source.
        name: Of the profile.
        say: Told what goes on.
        device: See :func:`core.models.devices.resolve_device`.

    Raises:
        SourceError: The source cannot be read or has no captions.
        ModelError: The profile's CLIP model cannot be loaded, or not be explained.
    """
    from core.models.clip.encoder import ClipEncoder
    from core.models.profiles import PROFILES

    encoder = ClipEncoder(PROFILES[name].clip, device=device)
    pairs = load_pairs(source).readable().spread(photos)
    texts = encoder.encode_text([captions[0] for captions in pairs.captions])
    dice = np.random.default_rng(0)
    took: list[float] = []
    areas: list[list[float]] = []
    for row, text in enumerate(texts):
        image = pairs.image(row)
        started = time.perf_counter()
        relevance = encoder.explain(image, text[np.newaxis]).patches.ravel()
        took.append((time.perf_counter() - started) * 1000)
        pixels = encoder.image_tower.preprocess(image)
        by_map = np.argsort(-relevance, kind="stable")
        by_chance = dice.permutation(relevance.size)
        areas.append(
            [
                _mean_cosine(encoder, pixels, order, text, shown)
                for order in (by_map, by_chance)
                for shown in (False, True)
            ]
        )
        if (row + 1) % 20 == 0:
            say(f"{row + 1} of {len(texts)} photos ...")
    deleted, inserted, deleted_by_chance, inserted_by_chance = np.array(areas).T
    count = len(texts)
    figures = [
        Figure("deletion, mean cosine, by relevance", float(deleted.mean()), "", count),
        Figure("deletion, mean cosine, at random", float(deleted_by_chance.mean()), "", count),
        Figure("insertion, mean cosine, by relevance", float(inserted.mean()), "", count),
        Figure("insertion, mean cosine, at random", float(inserted_by_chance.mean()), "", count),
        _wins("deletion, photos on which relevance beats chance", deleted < deleted_by_chance),
        _wins("insertion, photos on which relevance beats chance", inserted > inserted_by_chance),
        # The first loads the model.
        Figure("map of a photo, p50", median(took[1:] or took), "ms", count, _TARGET_MS),
    ]
    return result(figures, name, model=PROFILES[name].clip.name, source=pairs.name)


def _wins(name: str, won: np.ndarray) -> Figure:
    return Figure(name, 100 * float(won.mean()), "%", len(won), 50.0, more_is_better=True)


def _mean_cosine(
    encoder: ClipEncoder, pixels: torch.Tensor, order: np.ndarray, text: np.ndarray, shown: bool
) -> float:
    """Return the mean cosine while patches are greyed out, or shown on grey, in an order."""
    import torch

    rows, columns = _grid(encoder)
    height, width = pixels.shape[1] // rows, pixels.shape[2] // columns
    stages = []
    for step in range(1, _STEPS):
        kept = np.zeros(order.size, bool) if shown else np.ones(order.size, bool)
        kept[order[: round(order.size * step / _STEPS)]] = shown
        mask = torch.from_numpy(kept.reshape(rows, columns).repeat(height, 0).repeat(width, 1))
        # The mean colour of the pictures that CLIP was trained on is 0 after preprocessing.
        stages.append(pixels * mask)
    module = encoder.image_tower.module
    device = next(iter(module.parameters())).device
    with torch.inference_mode():
        batch = torch.stack(stages).to(device, memory_format=torch.channels_last)
        found = torch.nn.functional.normalize(module(batch).float()).cpu().numpy()
    return float((found @ text).mean())


def _grid(encoder: ClipEncoder) -> tuple[int, int]:
    grid: tuple[int, int] | None = getattr(encoder.image_tower.module, "grid_size", None)
    if grid is None:
        raise ModelError(f"The image tower of {encoder.spec.name} has no patches.")
    return grid
