"""Checkpoints of a training run: one safetensors file, whole or absent, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import SourceError
from core.files import fsync

if TYPE_CHECKING:
    import torch

_OPTIMIZER = "optimizer."
_TRAINED = "module."


def save_checkpoint(
    path: Path,
    *,
    progress: Mapping[str, Any],
    recipe: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write what a run needs to go on.

    Random state is not part of it: a run that resumes seeds every step by its number.

    Args:
        path: The file, replaced atomically.
        progress: How far the run is; JSON values.
        recipe: Everything that must be the same for the run to go on; JSON values.
        tensors: What is trained, by name.
        optimizer: Its per-parameter state must be tensors.
    """
    from safetensors.torch import save_file

    content = {_TRAINED + name: value.detach() for name, value in tensors.items()}
    for number, state in optimizer.state_dict()["state"].items():
        content |= {f"{_OPTIMIZER}{number}.{name}": value for name, value in state.items()}
    metadata = {
        "progress": json.dumps(progress),
        "recipe": json.dumps(recipe, sort_keys=True),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not through memory as one piece: with its optimiser, a model may fill most of it.
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: value.contiguous() for name, value in content.items()}, temporary, metadata)
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


def load_checkpoint(
    path: Path,
    *,
    recipe: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any] | None:
    """Put a checkpoint's state back and return the progress; None without a file.

    Raises:
        SourceError: The checkpoint belongs to a run with another recipe.
    """
    if not path.is_file():
        return None
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if metadata.get("recipe") != json.dumps(recipe, sort_keys=True):
        raise SourceError(
            "The folder of --out holds a run with another recipe. "
            "Repeat that run's options, or choose another --out."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[_TRAINED + name])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in saved.items():
        if name.startswith(_OPTIMIZER):
            number, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            state.setdefault(int(number), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return json.loads(metadata["progress"])
