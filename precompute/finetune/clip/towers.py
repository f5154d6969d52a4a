"""The towers of an open_clip model as a training sees them: what is locked, and where heads begin.

A head is what maps a tower's pooled features into the joint space: the ``head`` of a timm tower,
the ``proj`` of a Hugging Face tower, the projection matrix of open_clip's own transformers. The
rest is the tower's body, which is locked by blocks, from the input on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from core.errors import SourceError
from precompute.finetune.clip.recipe import ALL, ContrastiveRecipe
from precompute.finetune.shared.loop import decayed

_MATRICES = ("proj", "text_projection")


class MatrixHead(nn.Module):
    """The projection of an open_clip transformer, with the bias of the layer norm before it.

    Args:
        weight: The tower's own parameter, (features, dim).
        norm: The layer norm whose output reaches the projection, at most averaged over tokens.
    """

    def __init__(self, weight: nn.Parameter, norm: nn.LayerNorm) -> None:
        """Share the tower's parameters."""
        super().__init__()
        self.weight = weight
        self.bias = norm.bias
        self.register_buffer("start", norm.bias.detach().clone(), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (n, features), which hold the bias that training started from, to (n, dim)."""
        return (features + (self.bias - self.start)) @ self.weight


class Tower(nn.Module):
    """One tower in training.

    Where the body is locked its features never change, so they are computed once and the tower
    maps features; else it maps what its open_clip module maps.

    Args:
        module: An open_clip tower.
        unlocked: Last blocks of the body that are trained, ``ALL`` for every weight.
        lock_head: Whether the head keeps its weights.
        dropout: Share of the features that is dropped in training, where the body is locked.
        checkpointing: Whether an unlocked body computes its activations again.

    Raises:
        SourceError: This kind of tower can be unlocked as a whole only.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        unlocked: int = 0,
        lock_head: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        """Lock what is to be locked."""
        super().__init__()
        self.module = module
        self.body_is_locked = unlocked == 0
        self.head, self._matrix = _find_head(module)
        if isinstance(self.head, MatrixHead) and not self.body_is_locked:
            self.head.bias = None  # it learns as a part of the body
        self.dropout = 0.0 if lock_head else dropout
        _lock_body(module, unlocked)
        if checkpointing and unlocked:
            _checkpoint(module)
        for parameter in self.head.parameters():
            parameter.requires_grad_(not lock_head)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.module.parameters()).device

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map a batch to (n, dim), not normalised.

        Args:
            batch: Features (n, width) where the body is locked, else pixels or token ids.
        """
        if not self.body_is_locked:
            return self.module(batch)
        return self.head(functional.dropout(batch.float(), self.dropout, self.training))

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the body's pooled features (n, width) of pixels or token ids."""
        module = self.module
        if hasattr(module, "trunk") and hasattr(module, "head"):
            return module.trunk(batch)
        if hasattr(module, "transformer") and hasattr(module, "pooler"):
            mask = (batch != module.config.pad_token_id).long()
            return module.pooler(module.transformer(input_ids=batch, attention_mask=mask), mask)
        if self._matrix is None:
            return module(batch)
        # The module ends before a projection matrix that is not there.
        matrix = getattr(module, self._matrix)
        setattr(module, self._matrix, None)
        try:
            return module(batch)
        finally:
            setattr(module, self._matrix, matrix)

    def body_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the body by their names in the open_clip module."""
        norm = self.head.bias if isinstance(self.head, MatrixHead) else None
        head = {part.data_ptr() for part in self.head.parameters() if part is not norm}
        state = self.module.state_dict()
        return {name: t for name, t in state.items() if t.data_ptr() not in head}

    def train_unlocked(self) -> None:
        """Go into training mode, but for the parts whose weights are all locked.

        Those keep what batch norm has learned of their data, and drop nothing.
        """
        self.train()
        for part in self.module.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()


class TunedClip(nn.Module):
    """A CLIP model in training: two towers and the temperature.

    Args:
        image: Its image tower.
        text: Its text tower.
        logit_scale: Logarithm of the inverse temperature; it is learned.
        logit_bias: Of SigLIP; None where the model has none.
        train_bias: Whether the bias is learned; InfoNCE gives it nothing to learn from.
    """

    def __init__(
        self,
        image: Tower,
        text: Tower,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        *,
        train_bias: bool = False,
    ) -> None:
        """Take the towers as they are."""
        super().__init__()
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(logit_scale.float().clone())
        self.logit_bias: nn.Parameter | None = None
        if logit_bias is not None:
            self.logit_bias = nn.Parameter(logit_bias.float().clone(), requires_grad=train_bias)

    def embed_images(self, batch: torch.Tensor) -> torch.Tensor:
        """Return float32 (n, dim), unit norm."""
        return functional.normalize(self.image(batch).float(), dim=-1)

    def embed_texts(self, batch: torch.Tensor) -> torch.Tensor:
        """Return float32 (n, dim), unit norm."""
        return functional.normalize(self.text(batch).float(), dim=-1)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def changing(self) -> dict[str, torch.Tensor]:
        """Return all that training changes: parameters, and the buffers of unlocked towers."""
        buffers = {
            name: buffer
            for name, buffer in self.named_buffers()
            if not getattr(self, name.partition(".")[0]).body_is_locked
        }
        return {**self.trained(), **buffers}

    def optimizer_groups(self, recipe: ContrastiveRecipe) -> list[dict[str, Any]]:
        """Return the optimiser's groups: heads and towers, decayed and not."""
        heads = {id(p) for tower in (self.image, self.text) for p in tower.head.parameters()}
        heads |= {id(self.logit_scale), id(self.logit_bias)}
        trained = self.trained().values()
        own = [parameter for parameter in trained if id(parameter) in heads]
        others = [parameter for parameter in trained if id(parameter) not in heads]
        return [
            *decayed(own, recipe.learning_rate, recipe.weight_decay),
            *decayed(others, recipe.tower_learning_rate, recipe.weight_decay),
        ]


def _find_head(module: nn.Module) -> tuple[nn.Module, str | None]:
    """Return the head, and the name of the projection matrix if that is what it is."""
    if hasattr(module, "trunk") and hasattr(module, "head"):
        return module.head, None
    if hasattr(module, "pooler") and hasattr(module, "proj"):
        return module.proj, None
    for name in _MATRICES:
        matrix = getattr(module, name, None)
        if isinstance(matrix, nn.Linear):
            return matrix, name
        if isinstance(matrix, nn.Parameter):
            norm = getattr(module, "ln_post", None) or getattr(module, "ln_final", None)
            if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
                return MatrixHead(matrix, norm), name
    return nn.Identity(), None


def _lock_body(module: nn.Module, unlocked: int) -> None:
    """Lock all but the last blocks of a body, and what comes behind them."""
    if unlocked == ALL:
        return
    module.requires_grad_(False)
    if not unlocked:
        return
    kinds = (nn.ModuleList, nn.Sequential)
    stacks = [part for part in module.modules() if isinstance(part, kinds) and len(part) > 1]
    if not stacks:
        raise SourceError("This kind of tower can be unlocked as a whole only: give all.")
    blocks = max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))
    if unlocked >= len(blocks):
        module.requires_grad_(True)
        return
    parts = list(module.modules())
    first = next(n for n, part in enumerate(parts) if part is blocks[-unlocked])
    for part in parts[first:]:
        part.requires_grad_(True)


def _checkpoint(module: Any) -> None:  # noqa: ANN401 - a tower of open_clip
    """Keep no activations inside a body, but compute them again for the gradients."""
    if hasattr(module, "pooler"):
        # Not by open_clip, whose checkpoints give no gradients where what is before is locked.
        module.transformer.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        module.set_grad_checkpointing()
