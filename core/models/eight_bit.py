"""Matrix products in 8 bits, for CPUs: less than half the time of those in float32.

Each row of a weight has a scale of its own, and so has each token, found as it comes ("vector-wise"
quantization: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, without their outliers). So
nothing is calibrated, and what comes out of a picture does not depend on its neighbours in the
batch.

The products are exact on every CPU: one without special instructions for them adds them in pairs
in 16 bits, and cuts off what is more. With the steps below nothing is.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TOKEN_STEPS = 104
_WEIGHT_STEPS = 78
"""Steps from zero to the largest value; 2 * (2 * 104) * 78 is less than 2 ** 15."""


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


def linears_to_8_bits(module: torch.nn.Module) -> None:
    """Let every ``torch.nn.Linear`` inside a module multiply in 8 bits, in place.

    Args:
        module: Float32 on a CPU; it cannot be trained after.
    """
    import torch

    class InEightBits(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            weight = linear.weight.detach()
            bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias
            self._linear = EightBitLinear(weight, bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._linear(x)

    for parent in [*module.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, torch.nn.Linear):
                setattr(parent, name, InEightBits(child))


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
