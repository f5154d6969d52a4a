"""The training loop of a captioner: schedule, average of weights, and stopping at any batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from precompute.finetune.captions.batches import (
    CaptionBatch,
    Features,
    Tokens,
    batches_of,
    epoch_batches,
)
from precompute.finetune.captions.objective import CaptionObjective
from precompute.finetune.captions.recipe import CaptionRecipe
from precompute.finetune.shared.progress import RunLog, memory_gb

if TYPE_CHECKING:
    from accelerate import Accelerator


class CaptionTraining:
    """Trains one model on one recipe, and can stop and resume between any two steps.

    Args:
        objective: Around the model, on its device; what is trained requires gradients.
        accelerator: One process or several, in one precision; None is one process, in float32.
    """

    def __init__(self, objective: CaptionObjective, accelerator: Accelerator | None = None) -> None:
        """Make the optimiser and the average."""
        import torch
        from accelerate import Accelerator

        self.objective = objective
        self.recipe: CaptionRecipe = objective.recipe
        self.accelerator = accelerator or Accelerator(cpu=objective.device.type == "cpu")
        self.trained = {n: p for n, p in objective.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.trained.items()}
        self._start: dict[str, torch.Tensor] = {}
        if self.recipe.start_share:
            # Half of an adapter starts as nothing: a share of that alone scales what it adds.
            named = (name for name in self.trained if "lora_A" not in name)
            self._start = {name: self.average[name].clone() for name in named}
        # Placed already: a model in 8 bits must not be moved.
        self._module = self.accelerator.prepare_model(objective, device_placement=False)
        self.optimizer = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98))
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.losses: list[float] = []
        self.log: RunLog | None = None

    def _groups(self) -> list[dict[str, Any]]:
        groups = []
        for vision in (False, True):
            for decayed in (False, True):
                members = [
                    parameter
                    for name, parameter in self.trained.items()
                    if name.startswith("model.vision_model.encoder") == vision
                    and (parameter.ndim > 1) == decayed
                ]
                peak = self.recipe.vision_learning_rate if vision else self.recipe.learning_rate
                decay = self.recipe.weight_decay if decayed else 0.0
                groups.append({"params": members, "peak": peak, "weight_decay": decay})
        return groups

    def run_epoch(
        self,
        features: Features,
        tokens: Tokens,
        *,
        critic: Callable[[CaptionBatch], CaptionBatch] | None = None,
        save: Callable[[], None] = lambda: None,
        save_every: int | None = None,
    ) -> float:
        """Train on what is left of the epoch and return its mean loss.

        Args:
            features: Of the images.
            tokens: Of their captions.
            critic: Changes a batch before it is learnt from.
            save: Called between two steps.
            save_every: After so many batches.
        """
        import torch
        from tqdm import tqdm

        recipe, accelerator = self.recipe, self.accelerator
        world, rank = accelerator.num_processes, accelerator.process_index
        count = batches_of(len(tokens), recipe, world)
        steps = math.ceil(count / recipe.accumulation) * recipe.epochs
        seed = recipe.seed * 1000 + self.epoch
        batches = epoch_batches(
            features,
            tokens,
            recipe,
            unknown=self.objective.processor.tokenizer.unk_token_id,
            seed=seed,
            first=self.batch,
            rank=rank,
            world=world,
        )
        self._module.train()
        with tqdm(
            total=len(tokens),
            initial=min(len(tokens), self.batch * recipe.batch_size * world),
            desc=f"epoch {self.epoch + 1}",
            unit="img",
            disable=not accelerator.is_main_process,
        ) as progress:
            for batch in batches:
                # Seeded for each batch, so that a resumed training takes the same course.
                torch.manual_seed((seed * 1_000_003 + self.batch) * world + rank)
                last = (self.batch + 1) % recipe.accumulation == 0 or self.batch + 1 == count
                group = min(recipe.accumulation, count - self._group_start())
                if critic is not None:
                    batch = critic(batch)
                    self._module.train()
                with nullcontext() if last else accelerator.no_sync(self._module):
                    loss = self._module(batch)
                    accelerator.backward(loss / group)
                self.losses.append(loss.item())
                self.batch += 1
                if last:
                    self._take_step(steps)
                    if save_every and self.batch < count and self.batch % save_every < group:
                        save()
                progress.update(len(batch.rows) * world)
                memory = f"{memory_gb(self.objective.device):.1f} GB"
                progress.set_postfix(loss=f"{np.mean(self.losses[-50:]):.3f}", memory=memory)
        mean = float(np.mean(self.losses))
        self.epoch, self.batch, self.losses = self.epoch + 1, 0, []
        return mean

    def _group_start(self) -> int:
        return self.batch - self.batch % self.recipe.accumulation

    def _take_step(self, steps: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(self.step / steps, self.recipe.warmup)
        self.accelerator.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        if self.log is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            self.log.write({"train/loss": self.losses[-1], "train/rate": rate}, self.step)

    def _update_average(self) -> None:
        import torch

        # A young average follows closely, or it would remember the random start.
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), list(self.trained.values()), 1 - decay
            )

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Have in the model meanwhile what is kept of the training.

        That is the average of the weights, and the recipe's share of those it started from
        (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
        """
        import torch

        trained = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.average[name])
                if name in self._start:
                    parameter.lerp_(self._start[name], self.recipe.start_share)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(trained[name])


def _schedule(done: float, warmup: float) -> float:
    """Return the factor on the peak learning rate: linear up, cosine down."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
