"""The image tower that a small captioner is built behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import BlipImageProcessor, InstructBlipVisionModel

from core.errors import MissingDependencyError, SourceError
from precompute.finetune.clip_onnx import read_weights
from precompute.finetune.distillation import CLIP_DEVIATION, CLIP_MEAN, normalised
from precompute.finetune.vision_start import instructblip_tower

if TYPE_CHECKING:
    from pathlib import Path

    from precompute.finetune.data import Pairs

CAPTIONED_PX = 192
"""Side of the squares that a captioner with CLIP's patches of 16 looks at: 145 tokens. CLIP's own
224 would be 197 tokens, and a third more time for each photo."""

_TYPICAL = 250
_BLOCK_SIZE = 64


def read_vision(folder: Path) -> tuple[InstructBlipVisionModel, BlipImageProcessor]:
    """Read a tower, in float32, and its image processor.

    Raises:
        SourceError: The folder holds no image tower of InstructBLIP's kind.
    """
    try:
        tower = InstructBlipVisionModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return tower, BlipImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise SourceError(
            f"{folder} holds no image tower: give the folder that finetune distil wrote, or CLIP's "
            "tower as an ONNX file."
        ) from error


def clip_vision(path: Path, images: Pairs) -> tuple[InstructBlipVisionModel, BlipImageProcessor]:
    """Make a tower of CLIP's own weights and patches, which looks at smaller images.

    Args:
        path: ONNX export.
        images: Some of them show what a typical token is like.

    Raises:
        SourceError: The file holds no CLIP image tower.
        MissingDependencyError: ``onnx`` is not installed.
    """
    weights = read_weights(path)
    patch_size = weights["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    size = (CAPTIONED_PX, CAPTIONED_PX)
    rows = range(0, len(images), max(1, len(images) // _TYPICAL))
    squashed = [images.image(row).resize(size, Image.Resampling.BICUBIC) for row in rows]
    pixels = normalised(np.stack([np.asarray(image) for image in squashed]))
    tower = instructblip_tower(weights, pixels, patch_size=patch_size)
    processor = BlipImageProcessor(
        size={"height": CAPTIONED_PX, "width": CAPTIONED_PX},
        image_mean=CLIP_MEAN,
        image_std=CLIP_DEVIATION,
    )
    return tower, processor


def round_to_nf4(tower: InstructBlipVisionModel) -> None:
    """Give a tower's matrices the values that they will have in 4 bits, and the rest in 16.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise MissingDependencyError("bitsandbytes", "Storing in 4 bits") from error

    for name, tensor in tower.state_dict().items():
        half = tensor.half()
        if name.startswith("encoder.") and tensor.ndim == 2:
            packed, state = functional.quantize_4bit(
                half.contiguous(), blocksize=_BLOCK_SIZE, quant_type="nf4"
            )
            half = functional.dequantize_4bit(packed, state)
        tensor.copy_(half)
