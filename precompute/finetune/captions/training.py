"""A captioner in the training loop: its parameters, its batches, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precompute.finetune.captions.batches import CaptionBatch, Tokens, batches_of, epoch_batches
from precompute.finetune.captions.objective import CaptionObjective
from precompute.finetune.shared.loop import Loop, Schedule, decayed, replaced

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Transform = Callable[[CaptionBatch], CaptionBatch]
"""Changes a batch before it is learnt from."""


class CaptionTraining(Loop[list[CaptionBatch]]):
    """Trains one captioner by its recipe.

    Args:
        objective: Around the model, on its device; what is trained requires gradients.
        images: Number of training images.
        accelerator: One process or several, in one precision.
        folder: See :class:`~precompute.finetune.shared.loop.Loop`, as the rest.
        identity: What must be the same for a run to go on.
        log: Of figures.
    """

    def __init__(
        self,
        objective: CaptionObjective,
        images: int,
        accelerator: Accelerator | None = None,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        log: Path | None = None,
    ) -> None:
        """Take up what an earlier run left."""
        from accelerate import Accelerator

        self.objective = objective
        self.accelerator = accelerator or Accelerator(cpu=objective.device.type == "cpu")
        recipe = objective.recipe
        trained = {n: p for n, p in objective.named_parameters() if p.requires_grad}
        # Half of an adapter starts as nothing: a share of that alone scales what it adds.
        self._start = {
            name: parameter.detach().clone()
            for name, parameter in trained.items()
            if recipe.start_share and "lora_A" not in name
        }
        batches = batches_of(images, recipe, self.accelerator.num_processes)
        schedule = Schedule(
            epochs=recipe.epochs,
            steps=math.ceil(batches / recipe.accumulation),
            warmup=recipe.warmup,
            average_decay=recipe.average_decay,
            patience=recipe.patience,
            seed=recipe.seed,
        )
        super().__init__(
            trained,
            decayed(trained.values(), recipe.learning_rate, recipe.weight_decay),
            schedule,
            folder=folder,
            identity=identity,
            accelerator=self.accelerator,
            log=log,
        )

    def learn(
        self,
        features: np.ndarray,
        tokens: Tokens,
        transform: Transform | None = None,
        **how: Any,  # noqa: ANN401
    ) -> list[dict[str, Any]]:
        """Train on what is left of the run and return its history.

        Args:
            features: Of the images.
            tokens: Of their captions.
            transform: See :data:`Transform`.
            how: What is measured, kept and said: see :meth:`Loop.fit`.
        """
        accelerator, recipe = self.accelerator, self.objective.recipe

        def steps(epoch: int, first: int) -> Iterator[list[CaptionBatch]]:
            batches = epoch_batches(
                features,
                tokens,
                recipe,
                unknown=self.objective.processor.tokenizer.unk_token_id,
                seed=recipe.seed * 1000 + epoch,
                first=first * recipe.accumulation,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
            )
            while group := list(islice(batches, recipe.accumulation)):
                yield group

        def backward(group: list[CaptionBatch]) -> Mapping[str, float]:
            losses = []
            for batch in group:
                learnt = batch if transform is None else transform(batch)
                self.objective.train()
                with accelerator.autocast():
                    loss = self.objective(learnt)
                accelerator.backward(loss / len(group))
                losses.append(loss.item())
            return {"loss": float(np.mean(losses))}

        return self.fit(steps, backward, **how)

    def outcome(self) -> AbstractContextManager[None]:
        """Have in the model meanwhile what is kept of the training.

        That is the average of the weights, and the recipe's share of those it started from
        (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
        """
        share = self.objective.recipe.start_share
        kept: dict[str, torch.Tensor] = {
            name: average.lerp(self._start[name], share) if name in self._start else average
            for name, average in self.average.items()
        }
        return replaced(self.trained, kept)
