"""What a captioner's training needs to go on after a stop, without pickle, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.errors import SourceError
from core.files import write_atomically
from precompute.finetune.captions.training import CaptionTraining

_STATE = "state.json"


def save_training(
    training: CaptionTraining, folder: Path, run: dict[str, Any], history: Sequence[dict[str, Any]]
) -> None:
    """Write all that a resumed training needs; the state file last.

    Args:
        training: Between two steps.
        folder: Made if needed; holds the last state only.
        run: What must be the same for the training to go on, beside its recipe; JSON values.
        history: Of the finished epochs, handed back by :func:`resume_training`.
    """
    from safetensors.torch import save

    if not training.accelerator.is_main_process:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights.{n}": p.detach().contiguous() for n, p in training.trained.items()}
    tensors |= {f"average.{n}": p.contiguous() for n, p in training.average.items()}
    for name, parameter in training.trained.items():
        for key, value in training.optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.reshape(-1) if not value.ndim else value
    name = f"step-{training.step}.safetensors"
    write_atomically(folder / name, save({key: value.cpu() for key, value in tensors.items()}))
    state = {
        "epoch": training.epoch,
        "batch": training.batch,
        "step": training.step,
        "losses": training.losses,
        "tensors": name,
        "run": _identity(training, run),
        "history": list(history),
    }
    write_atomically(folder / _STATE, json.dumps(state, indent=1).encode())
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def resume_training(
    training: CaptionTraining, folder: Path, run: dict[str, Any]
) -> list[dict[str, Any]]:
    """Take up a training where it stopped, if there is one, and return its history.

    Raises:
        SourceError: The folder holds the training of another recipe, model or data.
    """
    from safetensors.torch import load_file

    if not (folder / _STATE).is_file():
        return []
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    if state["run"] != _identity(training, run):
        raise SourceError(
            f"{folder.parent.name} holds a run with another recipe, model or data. "
            "Repeat that run's options, or choose another --out."
        )
    tensors = load_file(folder / state["tensors"])
    device = training.objective.device
    for name, parameter in training.trained.items():
        parameter.data.copy_(tensors[f"weights.{name}"])
        training.average[name].copy_(tensors[f"average.{name}"])
        moments = {
            key: tensors[f"optimizer.{key}.{name}"].to(device)
            for key in ("exp_avg", "exp_avg_sq")
            if f"optimizer.{key}.{name}" in tensors
        }
        if moments:
            step = tensors[f"optimizer.step.{name}"].reshape(())
            training.optimizer.state[parameter] = {"step": step, **moments}
    training.epoch, training.batch, training.step = state["epoch"], state["batch"], state["step"]
    training.losses = list(state["losses"])
    return list(state["history"])


def _identity(training: CaptionTraining, run: dict[str, Any]) -> dict[str, Any]:
    shapes = {name: list(parameter.shape) for name, parameter in training.trained.items()}
    identity = {
        "recipe": asdict(training.recipe),
        "processes": training.accelerator.num_processes,
        "shapes": shapes,
        **run,
    }
    # As JSON gives it back: tuples are lists there.
    return dict(json.loads(json.dumps(identity)))
