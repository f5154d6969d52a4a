"""What locked towers say of every image and caption, computed once and kept on disk.

Training only the heads on cached features costs seconds where a pass through the towers costs
minutes. Augmentation is kept: each image is seen in several fixed views.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save
from tqdm import tqdm

from core.files import write_atomically
from precompute.finetune.shared.images import Images, view_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from precompute.finetune.clip.towers import Tower

_IMAGE_BATCH = 16
_TEXT_BATCH = 128


def image_features(
    tower: Tower,
    preprocess: Callable[[Image], torch.Tensor],
    images: Images,
    *,
    views: int,
    seed: int,
    cache: Path,
    show: bool = True,
) -> torch.Tensor:
    """Return the pooled features of an image tower's body, before its head.

    A finished view is kept in ``cache``, under a name that holds everything it depends on.

    Args:
        tower: On its device.
        preprocess: Maps an RGB image to float pixels (3, height, width).
        images: What to look at.
        views: At least 1; see :func:`~precompute.finetune.shared.images.view_of`.
        seed: Fixes the crops.
        cache: Folder for the finished views, made if needed.
        show: Whether to draw a progress bar.

    Returns:
        float16 (views, n, width), on the CPU.
    """
    device = tower.deviation.device

    def embed(batch: Sequence[Image]) -> torch.Tensor:
        pixels = torch.stack([preprocess(image) for image in batch])
        return tower.features(pixels.to(device, memory_format=torch.channels_last))

    key = digest([images.fingerprint, len(images), seed, repr(preprocess)], tower.body_state())
    return embedded_views(
        embed, images, views=views, seed=seed, cache=cache, key=f"image-{key}", show=show
    )


def embedded_views(
    embed: Callable[[Sequence[Image]], torch.Tensor],
    images: Images,
    *,
    views: int,
    seed: int,
    cache: Path,
    key: str,
    show: bool = True,
) -> torch.Tensor:
    """Embed the views of images and keep each finished view in ``cache``.

    Args:
        embed: Maps RGB images to (n, width).
        images: What to embed.
        views: At least 1.
        seed: Fixes the crops.
        cache: Folder, made if needed.
        key: Name of the files; holds everything that the embeddings depend on.
        show: Whether to draw a progress bar.

    Returns:
        float16 (views, n, width), on the CPU.
    """
    done = []
    for view in range(views):

        def batches(view: int = view) -> torch.Tensor:
            rows = range(0, len(images), _IMAGE_BATCH)
            label = f"{key.partition('-')[0]} features, view {view + 1} of {views}"
            parts = []
            for start in tqdm(rows, desc=label, unit="batch", disable=not show):
                batch = range(start, min(start + _IMAGE_BATCH, len(images)))
                seen = [view_of(images.image(row), view, [seed, view, row]) for row in batch]
                parts.append(embed(seen).half().cpu())
            return torch.cat(parts)

        done.append(_cached(cache / f"{key}-view{view}.safetensors", batches))
    return torch.stack(done)


def text_features(
    tower: Tower,
    tokenize: Callable[[Sequence[str]], torch.Tensor],
    captions: Sequence[str],
    *,
    cache: Path,
    show: bool = True,
) -> torch.Tensor:
    """Return the pooled features of a text tower's body, before its head.

    Args:
        tower: On its device.
        tokenize: Maps texts to token ids (n, length).
        captions: The texts.
        cache: Folder for the finished features, made if needed.
        show: Whether to draw a progress bar.

    Returns:
        float16 (n, width), in the order of ``captions``, on the CPU.
    """
    device = tower.deviation.device

    def batches() -> torch.Tensor:
        # Texts of like length side by side waste the least padding.
        order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
        parts = []
        rows = range(0, len(order), _TEXT_BATCH)
        for start in tqdm(rows, desc="caption features", unit="batch", disable=not show):
            ids = tokenize([captions[row] for row in order[start : start + _TEXT_BATCH]])
            parts.append(tower.features(ids.to(device)).half().cpu())
        return torch.cat(parts)[torch.tensor(order).argsort()]

    key = digest(list(captions), tower.body_state())
    return _cached(cache / f"text-{key}.safetensors", batches)


def _cached(path: Path, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            features = compute()
        write_atomically(path, save({"features": features.contiguous()}))
    return load_file(path)["features"]


def digest(description: Sequence[object], state: Mapping[str, torch.Tensor]) -> str:
    """Name features by everything that changes them, the weights included."""
    found = hashlib.sha256(json.dumps([str(item) for item in description]).encode())
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
