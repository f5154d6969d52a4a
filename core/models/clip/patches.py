"""Where in a picture a CLIP model sees what a query says: Grad-ECLIP's map of the patches.

Zhao et al. 2025, "Grad-ECLIP: Gradient-based Visual and Textual Explanations for CLIP",
https://arxiv.org/abs/2502.18816. In the last block the class token reads the patches. What it reads
of one counts by the gradient of the cosine, and by how alike the class token's query and the key
of the patch are. Only the last block is differentiated, which costs a few milliseconds; the blocks
before it run as in any search, in 8 bits too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True)
class PatchRelevance:
    """Where in a picture a model sees what some texts say.

    Attributes:
        patches: float32 (texts, rows, columns), 0 or more; comparable within a text only.
        area: The part of the picture that the patches cover: left, top, width and height, as
            shares of the picture's own. Negative or above 1 where the picture is padded.
    """

    patches: np.ndarray
    area: tuple[float, float, float, float]


class PatchMap:
    """Maps the patches of pictures for one CLIP model.

    Args:
        tower: Its image tower as loaded for searching, perhaps with products in 8 bits.
        last: The tower's last block, in float32.
        name: The model, for the error.

    Raises:
        ModelError: The tower is no plain vision transformer that is read at its class token.
    """

    def __init__(self, tower: Any, last: torch.nn.Module, name: str) -> None:  # noqa: ANN401
        """Check that the tower is of the kind that can be explained."""
        from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

        plain = isinstance(tower, VisionTransformer) and type(last) is ResidualAttentionBlock
        if not plain or tower.attn_pool is not None or tower.pool_type != "tok":
            raise ModelError(
                f"Where {name} looks in a picture cannot be shown: only vision transformers that "
                "are read at their class token can be explained."
            )
        self._tower = tower
        self._last = last.requires_grad_(False)

    def relevance(self, pixels: torch.Tensor, texts: np.ndarray) -> np.ndarray:
        """Return how much each patch speaks for each text: float32 (n, rows, columns), 0 or more.

        Args:
            pixels: float32 (3, height, width), as the tower's preprocessing makes them.
            texts: float32 (n, dim), embeddings of unit norm.
        """
        import torch
        from torch.nn.functional import linear, normalize, scaled_dot_product_attention

        tower, last = self._tower, self._last
        attention = last.attn
        with torch.no_grad():
            x = tower._embeds(pixels[None].contiguous(memory_format=torch.channels_last))
            for block in earlier_blocks(tower):
                x = block(x)
            projected = linear(last.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
            query, key, value = projected[0].chunk(3, dim=-1)
            by_head = [
                part.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
                for part in (query, key, value)
            ]
            read = scaled_dot_product_attention(by_head[0][:, :1], *by_head[1:])
            read = read.transpose(0, 1).flatten(1)
        wanted = torch.from_numpy(texts).to(read)
        with torch.enable_grad():
            # A row for each text, so that one backward pass gives every gradient.
            rows = read.expand(len(wanted), -1).clone().requires_grad_()
            token = x[:, 0] + last.ls_1(attention.out_proj(rows))
            token = token + last.ls_2(last.mlp(last.ln_2(token)))
            pooled = tower.ln_post(token)
            if tower.proj is not None:
                pooled = pooled @ tower.proj
            (gradients,) = torch.autograd.grad((normalize(pooled) * wanted).sum(), rows)
        alike = normalize(key[1:], dim=-1) @ normalize(query[0], dim=-1)
        alike = (alike - alike.min()) / (alike.max() - alike.min()).clamp_min(1e-12)
        found = ((gradients @ value[1:].T) * alike).relu()
        return found.view(len(wanted), *tower.grid_size).float().cpu().numpy()


def earlier_blocks(tower: Any) -> list[Any]:  # noqa: ANN401
    """Return all blocks of a tower but the last, as they run."""
    running = getattr(tower.transformer.forward, "blocks", None)
    return list(running if running is not None else tower.transformer.resblocks)[:-1]


def area_seen(resize_mode: str | None, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of a picture that a model sees, as :class:`PatchRelevance` gives it.

    Args:
        resize_mode: open_clip's: ``squash`` sees all, ``longest`` pads the shorter side, and
            ``shortest``, which None means, cuts the longer one.
        size: Width and height of the picture.
    """
    if resize_mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    side = max(size) if resize_mode == "longest" else min(size)
    width, height = (side / length for length in size)
    return (1 - width) / 2, (1 - height) / 2, width, height
