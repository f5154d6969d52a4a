"""What frozen layers say of every image and caption, computed once and kept on disk.

Training only what lies behind them takes seconds where a pass through a tower takes minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def cached_features(
    encode: Callable[[Sequence[int]], torch.Tensor],
    rows: Sequence[int],
    path: Path,
    *,
    batch: int = 16,
    label: str = "features",
) -> np.ndarray:
    """Encode images or texts once, or map what an earlier run left.

    Args:
        encode: Maps numbers of images or texts to a tensor, a row each; without gradients.
        rows: The numbers 0 to n - 1, in the order in which they are encoded.
        path: Of the ``.npy`` file; its name holds all that the features depend on.
        batch: Encoded at once.
        label: Of the progress bar.

    Returns:
        float16 (n, ...), in order of the numbers, mapped from disk: 6,000 images may be a gigabyte.
    """
    import torch
    from tqdm import tqdm

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        array = None
        for start in tqdm(range(0, len(rows), batch), desc=label, unit="batch"):
            some = rows[start : start + batch]
            with torch.inference_mode():
                part = encode(some).half().cpu().numpy()
            if array is None:
                shape = (len(rows), *part.shape[1:])
                array = np.lib.format.open_memmap(partial, "w+", part.dtype, shape)
            array[list(some)] = part
        del array  # which writes it
        partial.replace(path)
    return np.load(path, mmap_mode="r")


def digest(description: Sequence[object], state: Mapping[str, torch.Tensor]) -> str:
    """Name features by everything that changes them, the weights included."""
    found = hashlib.sha256(json.dumps([str(item) for item in description]).encode())
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
