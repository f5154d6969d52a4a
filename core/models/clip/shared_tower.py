"""The image tower of an InstructBLIP checkpoint under the names of open_clip's own ViT.

Both are the same transformer, but for CLIP's layer norm before the first block, which open_clip
can leave out (``no_ln_pre``). So one tower on disk may serve a captioner and a CLIP model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VISION_PREFIX = "vision_model."

_BLOCK = "encoder.layers."
_IN_BLOCK = {
    "layer_norm1.weight": "ln_1.weight",
    "layer_norm1.bias": "ln_1.bias",
    "self_attn.qkv.weight": "attn.in_proj_weight",
    "self_attn.qkv.bias": "attn.in_proj_bias",
    "self_attn.projection.weight": "attn.out_proj.weight",
    "self_attn.projection.bias": "attn.out_proj.bias",
    "layer_norm2.weight": "ln_2.weight",
    "layer_norm2.bias": "ln_2.bias",
    "mlp.fc1.weight": "mlp.c_fc.weight",
    "mlp.fc1.bias": "mlp.c_fc.bias",
    "mlp.fc2.weight": "mlp.c_proj.weight",
    "mlp.fc2.bias": "mlp.c_proj.bias",
}


def as_open_clip(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of an ``InstructBlipVisionModel`` for ``open_clip``'s VisionTransformer.

    The bias of the patches, for which open_clip has no place, is added to their positions.

    Args:
        state: The whole tower, without a prefix.

    Returns:
        All of open_clip's tensors but ``proj``, in float32.

    Raises:
        KeyError: A tensor of such a tower is missing, or one is unknown.
    """
    state = {name: tensor.float() for name, tensor in state.items()}
    positions = state.pop("embeddings.position_embedding")[0].clone()
    positions[1:] += state.pop("embeddings.patch_embedding.bias")
    renamed = {
        "class_embedding": state.pop("embeddings.class_embedding").flatten(),
        "positional_embedding": positions,
        "conv1.weight": state.pop("embeddings.patch_embedding.weight"),
        "ln_post.weight": state.pop("post_layernorm.weight"),
        "ln_post.bias": state.pop("post_layernorm.bias"),
    }
    for name, tensor in state.items():
        number, _, inner = name.removeprefix(_BLOCK).partition(".")
        renamed[f"transformer.resblocks.{number}.{_IN_BLOCK[inner]}"] = tensor
    return renamed
