"""A CLIP model in training: two towers, the temperature, and what of them is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from precompute.finetune.clip.recipe import Recipe
from precompute.finetune.clip.towers import Tower


class Student(nn.Module):
    """A CLIP model in training.

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
        found: dict[str, torch.Tensor] = dict(self.trained())
        for name, tower in (("image", self.image), ("text", self.text)):
            if not tower.body_is_locked:
                state = tower.module.state_dict()
                parameters = {n for n, _ in tower.module.named_parameters()}
                found |= {f"{name}.{n}": t for n, t in state.items() if n not in parameters}
        return found


def optimizer_groups(student: Student, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the optimiser's groups: heads and towers, decayed and not."""
    heads = {id(p) for tower in (student.image, student.text) for p in tower.head.parameters()}
    heads |= {id(student.logit_scale), id(student.logit_bias)}
    groups = []
    for in_heads in (True, False):
        peak = recipe.learning_rate if in_heads else recipe.tower_learning_rate
        for decayed in (True, False):
            members = [
                parameter
                for parameter in student.trained().values()
                if (id(parameter) in heads) == in_heads and (parameter.ndim > 1) == decayed
            ]
            decay = recipe.weight_decay if decayed else 0.0
            if members:
                groups.append({"params": members, "peak": peak, "lr": 0.0, "weight_decay": decay})
    return groups
