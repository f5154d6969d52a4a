"""What the frozen towers say of every image and caption, computed once and kept on disk.

Training only the projections on cached features costs seconds where a pass through the towers
costs minutes. Augmentation is kept: each image is seen in several fixed views.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from core.clip_towers import ImageTower, TextTower
from precompute.finetune.data import Pairs

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_IMAGE_BATCH = 16
_TEXT_BATCH = 128
_SMALLEST_CROP = 0.5
"""Smallest share of the area that a cropped view keeps."""


def image_features(
    tower: ImageTower, pairs: Pairs, *, views: int, seed: int, cache: Path, show: bool = True
) -> torch.Tensor:
    """Return the pooled features of the image trunk, before the projection.

    The first view is the image as it is searched, the second its mirror image, every further one
    a random crop, mirrored half of the time. A finished view is kept in ``cache``.

    Args:
        tower: Its ``module.trunk`` gives (n, features).
        pairs: The images.
        views: At least 1.
        seed: Fixes the crops.
        cache: Folder for the finished views, made if needed.
        show: Whether to draw a progress bar.

    Returns:
        float16 (views, n, features).
    """
    import torch

    trunk = tower.module.get_submodule("trunk")
    key = _digest([pairs.fingerprint, len(pairs), seed, repr(tower.preprocess)], trunk)
    done = []
    for view in range(views):
        path = cache / f"image-{key}-view{view}.safetensors"

        def batches(view: int = view) -> torch.Tensor:
            rows = range(0, len(pairs), _IMAGE_BATCH)
            label = f"image features, view {view + 1} of {views}"
            parts = []
            for start in tqdm(rows, desc=label, unit="batch", disable=not show):
                batch = range(start, min(start + _IMAGE_BATCH, len(pairs)))
                images = [_view(pairs.image(row), view, [seed, view, row]) for row in batch]
                pixels = torch.stack([tower.preprocess(image) for image in images])
                parts.append(trunk(pixels.contiguous(memory_format=torch.channels_last)).half())
            return torch.cat(parts)

        done.append(_cached(path, batches))
    return torch.stack(done)


def text_features(
    tower: TextTower, captions: Sequence[str], *, cache: Path, show: bool = True
) -> torch.Tensor:
    """Return the pooled features of the text transformer, before the projection.

    Args:
        tower: A Hugging Face text tower: ``module.transformer`` under ``module.pooler``.
        captions: The texts.
        cache: Folder for the finished features, made if needed.
        show: Whether to draw a progress bar.

    Returns:
        float16 (n, features), in the order of ``captions``.
    """
    import torch

    module = tower.module
    path = cache / f"text-{_digest(list(captions), module.transformer)}.safetensors"

    def batches() -> torch.Tensor:
        # Texts of like length side by side waste the least padding.
        order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
        found: torch.Tensor | None = None
        rows = range(0, len(order), _TEXT_BATCH)
        for start in tqdm(rows, desc="caption features", unit="batch", disable=not show):
            batch = order[start : start + _TEXT_BATCH]
            ids = tower.tokenize([captions[row] for row in batch])
            mask = (ids != module.config.pad_token_id).long()
            tokens = module.transformer(input_ids=ids, attention_mask=mask)
            pooled = module.pooler(tokens, mask).half()
            if found is None:
                found = torch.empty((len(order), pooled.shape[1]), dtype=pooled.dtype)
            found[batch] = pooled
        assert found is not None
        return found

    return _cached(path, batches)


def _view(image: Image, view: int, seed: Sequence[int]) -> Image:
    import numpy as np
    from PIL import Image as PILImage

    if view == 0:
        return image
    mirrored = PILImage.Transpose.FLIP_LEFT_RIGHT
    if view == 1:
        return image.transpose(mirrored)
    random = np.random.default_rng(seed)
    # Both sides shrink on their own, so the area and the aspect vary together.
    shares = np.sqrt(random.uniform(_SMALLEST_CROP, 1, 2))
    width, height = (
        max(1, round(side * share)) for side, share in zip(image.size, shares, strict=True)
    )
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    image = image.crop((left, top, left + width, top + height))
    return image.transpose(mirrored) if random.random() < 0.5 else image


def _cached(path: Path, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    import torch
    from safetensors.torch import load_file, save

    from core.files import write_atomically

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            features = compute()
        write_atomically(path, save({"features": features.contiguous()}))
    return load_file(path)["features"]


def _digest(description: Sequence[object], module: torch.nn.Module) -> str:
    """Name features by everything that changes them, the weights included."""
    digest = hashlib.sha256(json.dumps([str(item) for item in description]).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
