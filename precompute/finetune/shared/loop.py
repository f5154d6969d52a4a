"""The one training loop: schedule, average of the weights, checkpoints, and the best epoch.

Every step is seeded by its number and the order of an epoch by the epoch's, so a run that is killed
and started again ends in the same weights as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from core.errors import SourceError
from core.files import fsync

if TYPE_CHECKING:
    from accelerate import Accelerator

SAVE_EVERY_S = 300.0
"""Seconds between two checkpoints inside an epoch; each epoch ends with one."""

CHECKPOINT = "training.safetensors"
T = TypeVar("T")
Measure = Callable[[], tuple[dict[str, Any], Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long a run takes, and how its learning rate changes.

    Attributes:
        epochs: Passes over the data.
        steps: Steps of the optimiser in an epoch.
        warmup: Share of all steps until the peak of the learning rate; a cosine follows.
        average_decay: Of the moving average of the weights; None keeps no average.
        max_norm: Longest gradient; None does not clip.
        patience: Epochs without a better score after which the run ends; None runs them all.
        seed: Of every step.
    """

    epochs: int
    steps: int
    warmup: float = 0.1
    average_decay: float | None = None
    max_norm: float | None = 1.0
    patience: int | None = None
    seed: int = 0

    def factor(self, step: int) -> float:
        """Return what the peak learning rate is multiplied by: linear up, cosine down."""
        done = step / max(1, self.epochs * self.steps)
        if done < self.warmup:
            return max(done / self.warmup, 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


@dataclass
class _Progress:
    """How far a run is; JSON values only."""

    epoch: int = 0
    step: int = 0
    measured: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    best: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop(Generic[T]):
    """Trains parameters by AdamW; can be killed at any moment and go on.

    Args:
        changing: All that training changes, by name: parameters, and buffers if there are.
        groups: The optimiser's, with their peak learning rates.
        schedule: How long, and how fast.
        folder: Of the checkpoint; None keeps none.
        identity: What must be the same for a run to go on; JSON values.
        accelerator: Of several processes; None is one process.
        log: Folder of figures for TensorBoard.

    Raises:
        SourceError: The folder holds a run with another identity.
    """

    def __init__(
        self,
        changing: Mapping[str, torch.Tensor],
        groups: Sequence[dict[str, Any]],
        schedule: Schedule,
        *,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        accelerator: Accelerator | None = None,
        log: Path | None = None,
    ) -> None:
        """Make the optimiser, and take up what an earlier run left."""
        self.schedule = schedule
        self.trained = {n: t for n, t in changing.items() if t.requires_grad}
        self.average: dict[str, torch.Tensor] = {}
        if schedule.average_decay is not None:
            self.average = {name: t.detach().clone() for name, t in self.trained.items()}
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self._changing = changing
        self._path = folder / CHECKPOINT if folder is not None else None
        self._world = accelerator.num_processes if accelerator else 1
        self._rank = accelerator.process_index if accelerator else 0
        self._accelerator = accelerator
        self._identity = json.dumps([self._world, identity], sort_keys=True)
        self._log_folder = log if self._rank == 0 else None
        self._log: Any = None
        self._saved_at = time.monotonic()
        self.progress = self._resume()

    @property
    def history(self) -> list[dict[str, Any]]:
        """A line for every finished epoch: losses, figures, whether it is the best."""
        return self.progress.history

    @property
    def taken(self) -> int:
        """Number of steps taken."""
        return self.progress.epoch * self.schedule.steps + self.progress.step

    def fit(
        self,
        batches: Callable[[int, int], Iterable[T]],
        backward: Callable[[T], Mapping[str, float]],
        measure: Measure | None = None,
        keep: Callable[[], None] = lambda: None,
        say: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> list[dict[str, Any]]:
        """Train what is left of the run and return its history.

        Args:
            batches: What the steps of an epoch learn from, by the epoch's number and that of the
                first step.
            backward: Leaves the gradients of one step in the parameters, and returns its losses.
            measure: Figures after an epoch, and the score that decides whether it is the best.
            keep: Writes the model: after every epoch that is the best, or after the last one where
                nothing is measured.
            say: Receives every epoch's line.
        """
        progress, schedule = self.progress, self.schedule
        if self._log_folder is not None:
            with suppress(ImportError):  # where tensorboard is not installed there is no log
                from torch.utils.tensorboard import SummaryWriter

                self._log = SummaryWriter(str(self._log_folder), purge_step=self.taken)
        with tqdm(
            total=schedule.epochs * schedule.steps,
            initial=self.taken,
            unit="step",
            disable=self._rank != 0,
        ) as bar:
            while True:
                # An epoch is dear: it is saved before it is measured, and measured after a kill.
                if progress.measured < progress.epoch:
                    self._close_epoch(measure, keep, say)
                if progress.epoch >= schedule.epochs or self._is_stale():
                    break
                bar.set_description(f"epoch {progress.epoch + 1} of {schedule.epochs}")
                self._run_epoch(batches, backward, bar)
        if self._log is not None:
            self._log.close()
        return progress.history

    def save(self) -> None:
        """Write the checkpoint: one safetensors file, whole or absent, without pickle."""
        self._saved_at = time.monotonic()
        if self._path is None or self._rank:
            return
        from safetensors.torch import save_file

        content = {f"weights.{n}": tensor.detach() for n, tensor in self._changing.items()}
        content |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            content |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        metadata = {"progress": json.dumps(asdict(self.progress)), "identity": self._identity}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not through memory as one piece: with its optimiser, a model may fill most of it.
        partial = self._path.with_name(f".{CHECKPOINT}.partial")
        save_file({name: t.contiguous() for name, t in content.items()}, partial, metadata)
        fsync(partial)
        os.replace(partial, self._path)
        fsync(self._path.parent)

    def _resume(self) -> _Progress:
        if self._path is None or not self._path.is_file():
            return _Progress()
        from safetensors import safe_open

        with safe_open(self._path, framework="pt") as file:
            metadata = file.metadata()
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("identity") != self._identity:
            raise SourceError(
                "The folder of --out holds a run with another recipe, model or data. "
                "Repeat that run's options, or choose another --out."
            )
        with torch.no_grad():
            for prefix, tensors in (("weights.", self._changing), ("average.", self.average)):
                for name, tensor in tensors.items():
                    tensor.copy_(saved[prefix + name])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in saved.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        return _Progress(**json.loads(metadata["progress"]))

    def _run_epoch(
        self,
        batches: Callable[[int, int], Iterable[T]],
        backward: Callable[[T], Mapping[str, float]],
        bar: tqdm[Any],
    ) -> None:
        progress = self.progress
        device = next(iter(self.trained.values())).device
        with torch.random.fork_rng(devices=None if device.type == "cuda" else []):
            for item in batches(progress.epoch, progress.step):
                seed = self.schedule.seed * 1_000_003 + self.taken
                torch.manual_seed(seed * self._world + self._rank)
                losses = backward(item)
                self._take_step()
                for name, value in losses.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                bar.update()
                shown = {name: f"{value:.3f}" for name, value in losses.items()}
                if device.type == "cuda":
                    shown["memory"] = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
                bar.set_postfix(shown)
                self._write("train", losses)
                is_last = progress.step == self.schedule.steps
                if not is_last and time.monotonic() - self._saved_at > SAVE_EVERY_S:
                    self.save()
        means = {name: round(total / progress.step, 4) for name, total in progress.sums.items()}
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        progress.history.append({"epoch": progress.epoch, **means})
        self.save()

    def _take_step(self) -> None:
        factor = self.schedule.factor(self.taken)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        if self._accelerator is not None and self._world > 1:
            for parameter in self.trained.values():
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, reduction="mean")
        if self.schedule.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.values(), self.schedule.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average and self.schedule.average_decay is not None:
            # A young average follows closely, or it would remember a random start.
            decay = min(self.schedule.average_decay, (1 + self.taken) / (10 + self.taken))
            average = get_ema_multi_avg_fn(decay)
            average(list(self.average.values()), list(self.trained.values()), self.taken)

    def _close_epoch(
        self,
        measure: Measure | None,
        keep: Callable[[], None],
        say: Callable[[dict[str, Any]], object],
    ) -> None:
        """Measure the epoch that has ended, and write it if none was better."""
        progress = self.progress
        line = progress.history[-1]
        if measure is None:
            line["best"] = progress.epoch == self.schedule.epochs
        else:
            figures, score = measure()
            line |= figures
            line["best"] = list(score) > progress.best
            progress.best = max(list(score), progress.best)
        if line["best"]:
            keep()
        progress.measured = progress.epoch
        self._write("epoch", {n: v for n, v in line.items() if isinstance(v, float)})
        say(line)
        self.save()

    def _write(self, kind: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items() if self._log is not None else ():
            self._log.add_scalar(f"{kind}/{name}", value, self.taken)

    def _is_stale(self) -> bool:
        patience = self.schedule.patience
        recent = self.history[-patience:] if patience else []
        return len(recent) == patience and not any(line.get("best", True) for line in recent)


def decayed(
    parameters: Iterable[torch.Tensor], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return an optimiser's groups: matrices, whose weights decay, and all else."""
    given = list(parameters)
    matrices, others = [p for p in given if p.ndim > 1], [p for p in given if p.ndim < 2]
    return [
        {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": others, "lr": learning_rate, "weight_decay": 0.0},
    ]


@contextmanager
def replaced(
    parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Have other values in parameters meanwhile."""
    kept = {name: parameters[name].detach().clone() for name in values}
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)
