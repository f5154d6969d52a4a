"""Make InstructBLIP's image tower out of CLIP's: fewer and larger patches, no first layer norm.

The weights are CLIP's own but for three changes, from which a distillation recovers:

- a patch of twice the side sees its pixels through the old patch's filter, stretched: what the old
  filter would see of the image at half the size;
- CLIP's layer norm before the first block, which InstructBLIP's ViT lacks, becomes a constant: the
  norm of a typical token is folded into patches and positions;
- blocks that do least for the output may be left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    import numpy as np
    from transformers import InstructBlipVisionModel

_PREFIX = "vision_model."
_LAYERS = f"{_PREFIX}encoder.layers."
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_SAME = {
    "layer_norm1": "layer_norm1",
    "self_attn.out_proj": "self_attn.projection",
    "layer_norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def instructblip_tower(
    weights: Mapping[str, np.ndarray],
    pixels: torch.Tensor,
    *,
    patch_size: int,
    without: Collection[int] = (),
) -> InstructBlipVisionModel:
    """Build the tower.

    Args:
        weights: Of a ``CLIPVisionModelWithProjection`` with heads of 64.
        pixels: float32 (n, 3, size, size), a few normalised images; a typical token's norm is
            taken from them.
        patch_size: New side of a patch, no smaller than the old; divides the images' size.
        without: Blocks to leave out, counted from 0.
    """
    from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

    old = {name: torch.tensor(value) for name, value in weights.items()}
    blocks = [n for n in range(len(old)) if f"{_LAYERS}{n}.mlp.fc1.bias" in old]
    kept = [n for n in blocks if n not in without]
    kernel, positions, class_token = _without_first_norm(old, pixels, patch_size)
    width = kernel.shape[0]
    state = {
        "embeddings.class_embedding": class_token.view(1, 1, -1),
        "embeddings.position_embedding": positions[None],
        "embeddings.patch_embedding.weight": kernel,
        "embeddings.patch_embedding.bias": torch.zeros(width),
        "post_layernorm.weight": old[f"{_PREFIX}post_layernorm.weight"],
        "post_layernorm.bias": old[f"{_PREFIX}post_layernorm.bias"],
    }
    for new, number in enumerate(kept):
        source, target = f"{_LAYERS}{number}.", f"encoder.layers.{new}."
        for part in ("weight", "bias"):
            stacked = [old[f"{source}{name}.{part}"] for name in _ATTENTION]
            state[f"{target}self_attn.qkv.{part}"] = torch.cat(stacked)
            for name, renamed in _SAME.items():
                state[f"{target}{renamed}.{part}"] = old[f"{source}{name}.{part}"]
    config = InstructBlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(old[f"{_LAYERS}0.mlp.fc1.bias"]),
        num_hidden_layers=len(kept),
        num_attention_heads=width // 64,
        image_size=pixels.shape[-1],
        patch_size=patch_size,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        initializer_range=0.02,
    )
    tower = InstructBlipVisionModel(config)
    tower.load_state_dict(state)
    return tower.eval()


def _without_first_norm(
    old: Mapping[str, torch.Tensor], pixels: torch.Tensor, patch_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the patches' filters, the positions and the class token behind the layer norm."""
    gain, bias = old[f"{_PREFIX}pre_layrnorm.weight"], old[f"{_PREFIX}pre_layrnorm.bias"]
    kernel = _stretched(old[f"{_PREFIX}embeddings.patch_embedding.weight"], patch_size)
    positions = _resized(
        old[f"{_PREFIX}embeddings.position_embedding.weight"], pixels.shape[-1] // patch_size
    )
    class_token = old[f"{_PREFIX}embeddings.class_embedding"]
    patches = functional.conv2d(pixels, kernel, stride=patch_size).flatten(2).transpose(1, 2)
    norm = (patches + positions[1:]).std(dim=-1, correction=0).median()
    class_norm = (class_token + positions[0]).std(correction=0)
    # A layer norm takes the mean off every token, which is a linear map of its parts.
    centred = kernel - kernel.mean(dim=0, keepdim=True)
    positions = positions - positions.mean(dim=-1, keepdim=True)
    norms = torch.cat([class_norm[None], norm.expand(len(positions) - 1)])[:, None]
    return (
        centred / norm * gain[:, None, None, None],
        positions / norms * gain + bias,
        (class_token - class_token.mean()) / class_norm * gain,
    )


def _stretched(kernel: torch.Tensor, side: int) -> torch.Tensor:
    """Return filters of a larger side that see what the old ones see of the shrunk image."""
    # The map that shrinks a row of `side` pixels, found by shrinking every unit row. The other
    # axis is more than one wide: resizing a single column is wrong in some releases of PyTorch.
    rows = torch.eye(side).view(side, 1, side, 1).repeat(1, 1, 1, 4)
    shrunk = functional.interpolate(
        rows, size=(kernel.shape[-1], 4), mode="bicubic", antialias=True, align_corners=False
    )[..., 0]
    shrink = shrunk.reshape(side, kernel.shape[-1])
    return torch.einsum("ocij,yi,xj->ocyx", kernel, shrink, shrink).contiguous()


def _resized(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Resize the square grid of positions to ``side`` x ``side``, class token first."""
    old = round((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.reshape(1, -1, old, old)
    resized = functional.interpolate(
        grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([positions[:1], resized.flatten(2)[0].T])
