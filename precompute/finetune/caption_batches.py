"""Image features computed once, and batches of them with all their captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from precompute.finetune.data import Pairs

_FEATURE_BATCH = 16


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Some images and every caption of each.

    Attributes:
        rows: int64 (images,): which images of the split they are.
        features: float32 (images, tokens, width): what the frozen blocks make of the images.
        image_of_caption: int64 (captions,): row of ``features`` that each caption describes.
        labels: int64 (captions, longest): tokens with the end token; -100 is not trained. Rows
            are sorted by length.
    """

    rows: torch.Tensor
    features: torch.Tensor
    image_of_caption: torch.Tensor
    labels: torch.Tensor


def cached_features(
    model: Any,  # noqa: ANN401 - InstructBlipForConditionalGeneration, imported lazily
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    *,
    frozen_layers: int,
    folder: Path,
) -> np.ndarray:
    """Run the frozen blocks over every image once, or map what an earlier run left.

    The file's name holds digests of the frozen weights, of the image processor and of the data,
    so that a changed tower never meets old features.

    Returns:
        float16 (n, tokens, width), mapped from disk: the sequence after ``frozen_layers`` blocks.
    """
    import torch
    from tqdm import tqdm

    tower_digest = _tower_digest(model, processor, frozen_layers)
    path = folder / f"{pairs.fingerprint}-{tower_digest}.npy"
    if path.is_file():
        return np.load(path, mmap_mode="r")
    folder.mkdir(parents=True, exist_ok=True)
    tower = model.vision_model
    device = next(tower.parameters()).device
    tokens, width = tower.embeddings.num_positions, tower.config.hidden_size
    partial = path.with_suffix(".partial")
    # Mapped, not held: 6,000 images of 257 tokens are over a gigabyte.
    rows = np.lib.format.open_memmap(
        partial, mode="w+", dtype=np.float16, shape=(len(pairs), tokens, width)
    )
    with tqdm(total=len(pairs), desc=f"features of {pairs.name}", unit="img") as progress:
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
    return np.load(path, mmap_mode="r")


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
        [[*ids[: max_tokens - 1], end] if len(ids) > max_tokens else ids for ids in encoded]
        for encoded in (tokenizer(list(texts))["input_ids"] for texts in captions)
    ]


def epoch_batches(
    features: np.ndarray,
    tokens: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
    unknown: int,
    seed: int,
) -> Iterator[CaptionBatch]:
    """Yield every image once, in an order that depends on ``seed`` only.

    Args:
        features: (n, tokens, width).
        tokens: Of each image's captions.
        batch_size: Images in a batch; the last one may be smaller.
        unknown: Id of the unknown word, which is not trained.
        seed: Of the order.
    """
    import torch

    order = np.random.default_rng(seed).permutation(len(tokens))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        # By length, so that the loss can cut the batch into parts with little padding.
        texts = sorted(
            ((ids, image) for image, row in enumerate(rows) for ids in tokens[row]),
            key=lambda text: len(text[0]),
        )
        labels = torch.full((len(texts), len(texts[-1][0])), -100)
        for line, (ids, _) in enumerate(texts):
            labels[line, : len(ids)] = torch.tensor(ids)
        labels[labels == unknown] = -100
        owners = [image for _, image in texts]
        yield CaptionBatch(
            rows=torch.from_numpy(rows),
            features=torch.from_numpy(
                features[np.sort(rows)][np.argsort(np.argsort(rows))]
            ).float(),
            image_of_caption=torch.tensor(owners),
            labels=labels,
        )
