"""The image tower of a CLIP model with its matrix products in 8 bits, for CPUs.

On a CPU an image tower spends nearly all its time in matrix products, and does them in 8 bits in
less than half the time. Each row of a weight has a scale of its own, and so has each token, found
as it comes ("vector-wise" quantization: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339,
without their outliers). So nothing is calibrated, and an image's embedding does not depend on its
neighbours in the batch. Attention, norms, and what is added up from block to block stay in float32.

The products are exact on every CPU: one without special instructions for them adds them in pairs
in 16 bits, and cuts off what is more. With the steps below nothing is.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from open_clip.transformer import ResidualAttentionBlock

_TOKEN_STEPS = 104
_WEIGHT_STEPS = 78
"""Steps from zero to the largest value; 2 * (2 * 104) * 78 is less than 2 ** 15."""

_QUICK_GELU = 1.702


@lru_cache(maxsize=1)
def products_run_in_8_bits() -> bool:
    """Whether PyTorch on this machine's CPU multiplies in 8 bits, fast and exactly.

    On others than x86 oneDNN may do it in plain loops, far slower than in float32.
    """
    import torch

    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    tokens = torch.full((2, 64), 2 * _TOKEN_STEPS, dtype=torch.uint8)
    tokens[1, ::3] = 0
    weight = torch.full((3, 64), _WEIGHT_STEPS, dtype=torch.int8)
    weight[1], weight[2, ::5] = -_WEIGHT_STEPS, 17
    try:
        found = product_in_8_bits(
            tokens, _packed(weight), torch.ones(3), torch.zeros(3, dtype=torch.int64)
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(found, (tokens.float() - _TOKEN_STEPS) @ weight.float().T)


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


class EightBitLinear:
    """``torch.nn.Linear`` with its weight in 8 bits: float32 (..., features) to (..., out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Round a float weight (out, features) to 8 bits, each row by a scale of its own."""
        import torch

        self._scale = weight.abs().amax(dim=1).div_(_WEIGHT_STEPS).clamp_min_(1e-12)
        self._weight = _packed((weight / self._scale[:, None]).round_().to(torch.int8))
        self._zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self._bias = bias.detach()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply; each row of ``x`` is rounded by a scale of its own."""
        import torch

        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(dim=1, keepdim=True).div_(_TOKEN_STEPS).clamp_min_(1e-12)
        steps = rows.mul(scale.reciprocal()).round_().to(torch.int8)
        # Casting floats to uint8 is four times as slow; the sum wraps around to the same bits.
        tokens = steps.add_(_TOKEN_STEPS).view(torch.uint8)
        product = product_in_8_bits(tokens, self._weight, self._scale, self._zero_points)
        return product.mul_(scale).add_(self._bias).view(*x.shape[:-1], -1)


def _packed(weight: torch.Tensor) -> torch.Tensor:
    """Return an int8 weight (out, features) in the order that the CPU likes best."""
    import torch

    packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def product_in_8_bits(
    tokens: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, zero_points: torch.Tensor
) -> torch.Tensor:
    """Multiply uint8 tokens, less their offset, with a packed weight: float32 (rows, out).

    Args:
        tokens: uint8 (rows, features).
        weight: From :func:`_packed`.
        scale: float32 (out,), of the weight.
        zero_points: int64 (out,), of the weight: zeros.
    """
    import torch

    # What TorchInductor makes of a quantized Linear: oneDNN's product. The result is in float32,
    # with scale 1, and nothing is added, nor done to it.
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        tokens,
        1.0,
        _TOKEN_STEPS,
        weight,
        scale,
        zero_points,
        None,
        1.0,
        0,
        torch.float32,
        "none",
        [],
        "",
    )
    return product
