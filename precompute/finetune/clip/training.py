"""The training loop of a CLIP model: both towers, either, or only the heads on cached features.

Every step is seeded by its number and the order of an epoch by the epoch's, so a run that is
killed and goes on ends in the same weights as one that is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from precompute.finetune.clip.loss import Criterion
from precompute.finetune.clip.plan import (
    OWN_SEED_PER_EPOCH,
    Material,
    Step,
    cut_step,
    plan_epoch,
    share_of,
)
from precompute.finetune.clip.recipe import Recipe
from precompute.finetune.clip.student import Student, optimizer_groups
from precompute.finetune.shared.checkpoints import load_checkpoint, save_checkpoint
from precompute.finetune.shared.progress import RunLog, memory_gb
from precompute.finetune.shared.recall import Recall, recall

if TYPE_CHECKING:
    from accelerate import Accelerator

_WARM_UP = 0.3
_MAX_LOGIT_SCALE = math.log(100)
_SAVED_EVERY_S = 600.0
_PROBE_BATCH = 64


@dataclass
class _Progress:
    """How far a run is; JSON values only."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    best: list[float] = field(default_factory=list)
    stale: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class ContrastiveTraining:
    """Trains one student on one recipe; can stop at any moment and go on.

    Args:
        student: On the accelerator's device.
        recipe: How to train.
        accelerator: Device, precision and processes.
        checkpoint: The file that a run goes on from.
        identity: Everything that must be the same for that; JSON values.
        log: Folder for the figures that TensorBoard shows; None writes none.
        show: Whether to draw a progress bar.
    """

    def __init__(
        self,
        student: Student,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        checkpoint: Path,
        identity: Mapping[str, Any],
        log: Path | None = None,
        show: bool = True,
    ) -> None:
        """Make the optimiser; train nothing yet."""
        self.student = student
        self.recipe = recipe
        self.accelerator = accelerator
        self.criterion = Criterion(recipe, accelerator.process_index, accelerator.num_processes)
        self.optimizer = torch.optim.AdamW(optimizer_groups(student, recipe))
        self._checkpoint = checkpoint
        self._identity = dict(identity)
        self._log_folder = log if accelerator.is_main_process else None
        self._log: RunLog | None = None
        self._show = show and accelerator.is_local_main_process
        self._saved_at = time.monotonic()

    def fit(
        self, material: Material, probe: Material | None, keep: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Train from where the checkpoint is, or from the start.

        Args:
            material: What to learn from.
            probe: Measured after every epoch.
            keep: Writes the model; called after each epoch that is the best so far by R@5 on
                ``probe``, or after the last one without a probe.

        Returns:
            For every epoch: its number, mean losses, temperature and recall.

        Raises:
            SourceError: The checkpoint belongs to another run.
        """
        progress = self._resume()
        steps = material.captioned // self.recipe.batch_size
        if self._log_folder is not None:
            self._log = RunLog(self._log_folder, progress.epoch * steps + progress.step + 1)
        bar = tqdm(
            total=self.recipe.epochs * steps * self.recipe.batch_size,
            initial=(progress.epoch * steps + progress.step) * self.recipe.batch_size,
            unit="img",
            disable=not self._show,
        )
        while progress.epoch < self.recipe.epochs and not self._is_stale(progress):
            self._run_epoch(material, progress, steps, bar)
            line = self._close_epoch(progress, probe, steps)
            progress.history.append(line)
            if probe is None:
                better = progress.epoch + 1 == self.recipe.epochs
            else:
                score = [line["recall"]["at_5"], line["recall"]["at_1"]]
                better = score > progress.best
                progress.best = max(score, progress.best)
                progress.stale = 0 if better else progress.stale + 1
            if better and self.accelerator.is_main_process:
                keep()
            progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
            self._save(progress)
        bar.close()
        if self._log is not None:
            self._log.close()
        return progress.history

    def _is_stale(self, progress: _Progress) -> bool:
        return self.recipe.patience is not None and progress.stale >= self.recipe.patience

    def _resume(self) -> _Progress:
        saved = load_checkpoint(
            self._checkpoint,
            recipe=self._identity,
            tensors=self.student.changing(),
            optimizer=self.optimizer,
        )
        return _Progress(**saved) if saved else _Progress()

    def _save(self, progress: _Progress) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self._checkpoint,
                progress=vars(progress),
                recipe=self._identity,
                tensors=self.student.changing(),
                optimizer=self.optimizer,
            )
        self._saved_at = time.monotonic()

    def _run_epoch(
        self, material: Material, progress: _Progress, steps: int, bar: tqdm[Any]
    ) -> None:
        self.student.image.train_unlocked()
        self.student.text.train_unlocked()
        plan = plan_epoch(material, self.recipe, progress.epoch)[progress.step :]
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        plan = [share_of(step, rank, world) for step in plan]
        parts = [cut_step(step, self.recipe.accumulation) for step in plan]
        flat = ((rows, views) for step in parts for rows, views in step)
        images = material.images(flat)
        bar.set_description(f"epoch {progress.epoch + 1} of {self.recipe.epochs}")
        devices: list[int] | None = [] if self.accelerator.device.type == "cpu" else None
        with torch.random.fork_rng(devices=devices):
            for step, cut in zip(plan, parts, strict=True):
                loaded = [next(images).to(self.accelerator.device) for _ in cut]
                losses = self._step(material, step, loaded, progress, steps)
                for name, value in losses.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                bar.update(self.recipe.batch_size)
                memory = f"{memory_gb(self.accelerator.device):.1f} GB"
                r5 = {"r5": progress.best[0]} if progress.best else {}
                bar.set_postfix(loss=f"{losses['loss']:.3f}", **r5, memory=memory)
                if self._log and progress.step % max(1, steps // 20) == 0:
                    self._log.write(
                        {f"train/{name}": value for name, value in losses.items()},
                        progress.epoch * steps + progress.step,
                    )
                if time.monotonic() - self._saved_at > _SAVED_EVERY_S:
                    self._save(progress)

    def _step(
        self,
        material: Material,
        step: Step,
        images: Sequence[torch.Tensor],
        progress: _Progress,
        steps: int,
    ) -> dict[str, float]:
        """Take one step of the optimiser and return the losses."""
        number = progress.epoch * steps + progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(group["peak"], number, self.recipe.epochs * steps)
        device = self.accelerator.device
        texts = [
            material.texts(numbers.tolist()).to(device)
            for numbers in step.captions.reshape(-1).tensor_split(self.recipe.accumulation)
        ]
        teacher = None
        if material.teacher is not None:
            views = torch.tensor(step.views) if len(material.teacher) > 1 else 0
            teacher = material.teacher[views, torch.tensor(step.rows)].float().to(device)
        seeds = [
            (self.recipe.seed * OWN_SEED_PER_EPOCH + number) * self.recipe.accumulation + part
            for part in range(self.recipe.accumulation)
        ]

        def losses_of(embedded: torch.Tensor, embedded_texts: torch.Tensor) -> Mapping[str, Any]:
            by_caption = embedded_texts.view(len(step.captions), -1, embedded_texts.shape[1])
            scale = self.student.logit_scale.exp()
            return self.criterion(embedded, by_caption, scale, self.student.logit_bias, teacher)

        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.accumulation == 1:
            losses = losses_of(*self._embed(images[0], texts[0], seeds[0]))
            losses["loss"].backward()
        else:
            losses = self._accumulate(images, texts, seeds, losses_of)
        self._average_gradients()
        self.optimizer.step()
        with torch.no_grad():
            self.student.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _accumulate(
        self,
        images: Sequence[torch.Tensor],
        texts: Sequence[torch.Tensor],
        seeds: Sequence[int],
        losses_of: Callable[[torch.Tensor, torch.Tensor], Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """Find the gradient of the whole batch's loss with the activations of one part in memory.

        All is embedded once without gradients; the loss then says what each embedding should
        change, and a second pass carries that into the weights, part by part (GradCache,
        https://arxiv.org/abs/2101.06983).
        """
        with torch.no_grad():
            found = [self._embed(*part) for part in zip(images, texts, seeds, strict=True)]
        leaves = [torch.cat(part).requires_grad_() for part in zip(*found, strict=True)]
        losses = losses_of(leaves[0], leaves[1])
        losses["loss"].backward()
        gradients = [
            leaf.grad.split([len(part[side]) for part in found])
            for side, leaf in enumerate(leaves)
            if leaf.grad is not None
        ]
        for *part, wanted in zip(images, texts, seeds, zip(*gradients, strict=True), strict=True):
            again = self._embed(*part)
            kept = [(e, g) for e, g in zip(again, wanted, strict=True) if e.requires_grad]
            if kept:
                torch.autograd.backward([e for e, _ in kept], [g for _, g in kept])
        return losses

    def _embed(
        self, images: torch.Tensor, texts: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        with self.accelerator.autocast():
            return self.student.embed_images(images), self.student.embed_texts(texts)

    def _average_gradients(self) -> None:
        # Not by DistributedDataParallel: it allows one backward pass a step.
        if self.accelerator.num_processes > 1:
            for parameter in self.student.trained().values():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")

    def _close_epoch(
        self, progress: _Progress, probe: Material | None, steps: int
    ) -> dict[str, Any]:
        """Return the epoch's line for the report, measured where there is something to measure."""
        means = {name: round(total / steps, 4) for name, total in progress.sums.items()}
        scale = float(self.student.logit_scale.detach().exp())
        line: dict[str, Any] = {"epoch": progress.epoch + 1, **means, "logit_scale": scale}
        if probe is not None:
            line["recall"] = self._measured(probe)
        if self._log:
            figures = {f"epoch/{name}": value for name, value in means.items()}
            figures["epoch/logit_scale"] = scale
            for k in (1, 5, 10):
                if probe is not None:
                    figures[f"validation/recall_at_{k}"] = line["recall"][f"at_{k}"]
            self._log.write(figures, (progress.epoch + 1) * steps)
        return line

    def _measured(self, probe: Material) -> dict[str, Any]:
        """Measure on the main process, and tell the others: they must stop together."""
        from accelerate.utils import broadcast_object_list

        found = [self.recall(probe).as_json() if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            found = broadcast_object_list(found)
        assert found[0] is not None
        return found[0]

    @torch.inference_mode()
    def recall(self, probe: Material) -> Recall:
        """Search every caption among the first views of all images."""
        self.student.eval()
        device = self.accelerator.device
        rows = range(probe.captioned)
        batches = [rows[i : i + _PROBE_BATCH] for i in range(0, len(rows), _PROBE_BATCH)]
        with self.accelerator.autocast():
            images = [
                self.student.embed_images(batch.to(device)).cpu()
                for batch in probe.images((batch, [0] * len(batch)) for batch in batches)
            ]
            numbers = range(len(probe.owners))
            texts = [
                self.student.embed_texts(
                    probe.texts(numbers[i : i + _PROBE_BATCH]).to(device)
                ).cpu()
                for i in range(0, len(numbers), _PROBE_BATCH)
            ]
        return recall(probe.name, torch.cat(images).numpy(), torch.cat(texts).numpy(), probe.owners)


def _learning_rate(peak: float, step: int, steps: int) -> float:
    """Rise to the peak in the first part of the run, then fall to nothing, as cosines."""
    turn = _WARM_UP * steps
    if step < turn:
        return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * step / turn)) / 2)
    return peak * (1 + math.cos(math.pi * (step - turn) / (steps - turn))) / 2
