"""One batch of images after the image tower, and a captioner that goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """One batch of images after the image tower, which runs once however often they are captioned.

    Attributes:
        pixels: Tensor (n, 3, height, width), what the tower was given of the first view of each.
        tokens: Tensor (n, views, tokens, width), its last hidden state; the first is the class
            token.
    """

    pixels: Any
    tokens: Any

    def take(self, rows: Sequence[int]) -> EncodedImages:
        """Return some of the images."""
        return EncodedImages(self.pixels[rows], self.tokens[rows])

    def class_tokens(self) -> np.ndarray:
        """Return the tower's embedding of each image as a whole, float32 (n, width).

        That of several views is their mean.
        """
        tokens: np.ndarray = self.tokens[:, :, 0].float().mean(dim=1).cpu().numpy()
        return tokens

    def in_place_of_tower(self, model: Any) -> Any:  # noqa: ANN401 - transformers' own
        """Return a captioner with this in its tower's place; all else is shared.

        Of several views the Q-Former's outputs are averaged: a captioner without one sees the
        first. It is for one call: nothing of the model itself changes, so calls at once do not
        meet.
        """
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        views = self.tokens.unbind(dim=1)

        class Tower(torch.nn.Module):
            def forward(self, *_: object, **__: object) -> BaseModelOutputWithPooling:
                return BaseModelOutputWithPooling(last_hidden_state=views[0])

        class QFormer(torch.nn.Module):
            def forward(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401
                found = [
                    model.qformer(*given, **{**named, "encoder_hidden_states": view})
                    for view in views
                ]
                states = [each.last_hidden_state for each in found]
                found[0].last_hidden_state = torch.stack(states).mean(dim=0)
                return found[0]

        other = copy(model)
        other._modules = {**model._modules, "vision_model": Tower()}
        if len(views) > 1 and "qformer" in model._modules:
            other._modules["qformer"] = QFormer()
        return other
