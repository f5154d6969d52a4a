"""The image tower of a CLIP model with its matrix products in 8 bits, for CPUs.

On a CPU an image tower spends nearly all its time in matrix products
(:mod:`core.models.eight_bit`). Attention, norms, and what is added up from block to block stay in
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.errors import ModelError
from core.models.eight_bit import EightBitLinear

if TYPE_CHECKING:
    import torch
    from open_clip.transformer import ResidualAttentionBlock

_QUICK_GELU = 1.702


def to_8_bits(tower: torch.nn.Module, name: str) -> None:
    """Let an image tower multiply in 8 bits, in place; it cannot be trained after.

    Where only the class token is read of the last block, the others are not computed there.

    Args:
        tower: open_clip's ``VisionTransformer``, float32 on a CPU, in evaluation mode.
        name: The model, for the error.

    Raises:
        ModelError: It is another kind of tower.
    """
    import torch
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(tower, VisionTransformer) or not all(
        type(block) is ResidualAttentionBlock for block in tower.transformer.resblocks
    ):
        raise ModelError(
            f"The image tower of {name} is no plain vision transformer and does not run in int8. "
            "Take image_precision out of its configuration."
        )
    only_class_token = tower.attn_pool is None and tower.pool_type == "tok"
    with torch.no_grad():
        blocks = [_Block(block) for block in tower.transformer.resblocks]
        tower.conv1.forward = _Patches(tower.conv1)
    blocks[-1].first_token_only = only_class_token and not tower.output_tokens
    tower.transformer.resblocks = torch.nn.ModuleList()
    tower.transformer.forward = _InTurn(blocks)


class _InTurn:
    """The blocks of a tower, one after the other.

    Attributes:
        blocks: In order.
    """

    def __init__(self, blocks: Sequence[_Block]) -> None:
        self.blocks = blocks

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Patches:
    """The convolution that embeds patches: float32 (n, 3, height, width) to (n, width, y, x)."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        self._size = convolution.kernel_size
        weight = convolution.weight.flatten(1)
        self._linear = EightBitLinear(weight, weight.new_zeros(len(weight)))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = self._size
        patches = pixels.unfold(2, height, height).unfold(3, width, width)
        return self._linear(patches.permute(0, 2, 3, 1, 4, 5).flatten(3)).permute(0, 3, 1, 2)


class _Block:
    """open_clip's ``ResidualAttentionBlock``: float32 (n, tokens, width) to the same.

    Attributes:
        first_token_only: Whether the result is (n, 1, width).
    """

    def __init__(self, block: ResidualAttentionBlock) -> None:
        from torch import nn

        attention, inner, outer = block.attn, block.mlp.c_fc, block.mlp.c_proj
        self.first_token_only = False
        self._heads = attention.num_heads
        self._norms = block.ln_1, block.ln_2
        self._layer_scales = block.ls_1, block.ls_2
        self._qkv = EightBitLinear(attention.in_proj_weight, attention.in_proj_bias)
        self._out = EightBitLinear(attention.out_proj.weight, attention.out_proj.bias)
        # x * sigmoid(1.702 x) is the SiLU of 1.702 x, divided by 1.702: one pass in place of three.
        quick = type(block.mlp.gelu).__name__ == "QuickGELU"
        factor = _QUICK_GELU if quick else 1.0
        self._inner = EightBitLinear(inner.weight * factor, inner.bias * factor)
        self._activation = nn.SiLU(inplace=True) if quick else block.mlp.gelu
        self._outer = EightBitLinear(outer.weight / factor, outer.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        n, tokens, width = x.shape
        by_head = self._qkv(self._norms[0](x)).view(n, tokens, 3, self._heads, -1)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        if self.first_token_only:
            x, query = x[:, :1], query[:, :, :1]
        seen = scaled_dot_product_attention(query, key, value).transpose(1, 2)
        x = self._layer_scales[0](self._out(seen.reshape(n, -1, width))).add_(x)
        hidden = self._activation(self._inner(self._norms[1](x)))
        return self._layer_scales[1](self._outer(hidden)).add_(x)
