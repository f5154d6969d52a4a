"""Checkpoints of a training run: one safetensors file, whole or absent, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import SourceError
from core.files import write_atomically

if TYPE_CHECKING:
    import torch

_OPTIMIZER = "optimizer."
_MODULE = "module."


def save_checkpoint(
    path: Path,
    *,
    epoch: int,
    recipe: Mapping[str, Any],
    modules: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write what a run needs to go on after ``epoch`` finished epochs.

    Random state is not part of it: a run that resumes seeds every epoch by its number.

    Args:
        path: The file, replaced atomically.
        epoch: Finished epochs.
        recipe: Everything that must be the same for the run to go on; JSON values.
        modules: What is trained.
        optimizer: Its per-parameter state must be tensors.
    """
    from safetensors.torch import save

    tensors = {_MODULE + name: value for name, value in modules.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{number}.{name}": value for name, value in state.items()}
    metadata = {"epoch": str(epoch), "recipe": json.dumps(recipe, sort_keys=True)}
    content = save({name: value.contiguous() for name, value in tensors.items()}, metadata)
    write_atomically(path, content)


def load_checkpoint(
    path: Path,
    *,
    recipe: Mapping[str, Any],
    modules: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put a checkpoint's state back and return how many epochs are finished; 0 without a file.

    Raises:
        SourceError: The checkpoint belongs to a run with another recipe.
    """
    if not path.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if metadata["recipe"] != json.dumps(recipe, sort_keys=True):
        raise SourceError(
            f"{path.parent.name} holds a run with another recipe. "
            "Repeat that run's options, or choose another --out."
        )
    modules.load_state_dict(
        {name.removeprefix(_MODULE): t for name, t in tensors.items() if name.startswith(_MODULE)}
    )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            number, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            state.setdefault(int(number), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(metadata["epoch"])
