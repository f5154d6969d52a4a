"""Reading what a CLIP model starts from, and writing what was trained in the layout it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from core.clip_towers import CONFIG_NAME, LOCAL_WEIGHTS_NAME, ClipFiles
from core.errors import SourceError
from core.files import write_atomically

if TYPE_CHECKING:
    import torch

_CLASSIFIER = ("classifier.", "_fc.", "fc.", "head.")


def load_trunk(trunk: torch.nn.Module, weights: Path) -> None:
    """Fill an image trunk with weights published for its architecture.

    Publishers name the same layers differently, so tensors are matched by their order, which all
    of them share, and checked by their shapes. A classifier is left out.

    Args:
        trunk: Filled in place.
        weights: A ``.safetensors`` file, or a ``.pth`` that holds nothing but tensors.

    Raises:
        SourceError: The file cannot be read, or holds another architecture.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if weights.suffix == ".safetensors":
            tensors = load_file(weights)
        else:
            tensors = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a foreign file raises anything
        raise SourceError(f"{weights.name} cannot be read as weights.") from error
    own = trunk.state_dict()
    if set(own) <= set(tensors):
        given = [tensors[name] for name in own]
    else:
        given = [t for name, t in tensors.items() if not name.startswith(_CLASSIFIER)]
    if [tuple(t.shape) for t in own.values()] != [tuple(t.shape) for t in given]:
        raise SourceError(f"{weights.name} holds another architecture than the image trunk.")
    trunk.load_state_dict(dict(zip(own, given, strict=True)))


def reset_projections(seed: int, *projections: torch.nn.Module) -> None:
    """Draw the weights of projections anew, by the rule of their layers."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for projection in projections:
            for module in projection.modules():
                if isinstance(module, torch.nn.Linear):
                    module.reset_parameters()


def write_clip_asset(
    folder: Path,
    start: ClipFiles,
    image: torch.nn.Module,
    text: torch.nn.Module,
    logit_scale: float,
) -> None:
    """Write a model that :class:`core.encoders.ClipEncoder` loads, in half precision.

    A text transformer that comes with an installed package is left out.

    Args:
        folder: Gets ``open_clip_config.json`` and ``model.safetensors``.
        start: The model whose configuration it has.
        image: The image tower.
        text: The text tower.
        logit_scale: Logarithm of the inverse temperature.
    """
    import torch
    from safetensors.torch import save

    packaged = start.model_cfg["text_cfg"].get("hf_model_name", "").startswith("package:")
    tensors = {f"visual.{name}": tensor for name, tensor in image.state_dict().items()}
    tensors |= {
        f"text.{name}": tensor
        for name, tensor in text.state_dict().items()
        if not (packaged and name.startswith("transformer."))
    }
    tensors["logit_scale"] = torch.tensor(logit_scale)
    halved = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    config = json.dumps(dict(start.config), indent=2) + "\n"
    write_atomically(folder / LOCAL_WEIGHTS_NAME, save(halved, {"format": "pt"}))
    write_atomically(folder / CONFIG_NAME, config.encode())
