"""Reading what a CLIP model starts from, and writing what was trained in the layout it had."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save

from core.files import write_atomically
from core.models.clip.towers import CONFIG_NAME, LOCAL_WEIGHTS_NAME, ClipFiles, shared_tower
from core.models.tensors import tensors_below
from precompute.finetune.clip.towers import MatrixHead, TunedClip


def reset_head(head: torch.nn.Module, seed: int) -> None:
    """Draw the weights of a head anew, by the rule of its layers."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in head.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
            elif isinstance(module, MatrixHead):
                module.weight.normal_(std=len(module.weight) ** -0.5)


def start_of_logits(
    start: ClipFiles, *, scale: float | None, siglip: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logarithm of the inverse temperature, and the bias of the logits if there is one.

    Args:
        start: The model to start from; its file may be missing.
        scale: Inverse temperature to start at; None takes the model's.
        siglip: Whether a bias is needed; a model without one gets those that SigLIP started from
            (https://arxiv.org/abs/2303.15343).
    """
    found = tensors_below(start.weights, "logit_") if start.weights.is_file() else {}
    known, bias = found.get("scale"), found.get("bias")
    first = torch.zeros(()) if known is None else known.float()
    if siglip and bias is None:
        bias = torch.full_like(first, -10.0)
        scale = scale or 10.0
    if scale is None and known is not None:
        return first, bias
    return torch.full_like(first, math.log(scale or 14.0)), bias


def write_clip_asset(
    folder: Path, start: ClipFiles, model: TunedClip, *, half: bool = False
) -> None:
    """Write a model that :class:`core.models.clip.encoder.ClipEncoder` and open_clip load.

    Every tensor has the precision that it has in the file the model started from, so what was
    locked is bit by bit the same; what that file does not hold is in half precision. A text
    transformer that comes with an installed package is left out, unless it was trained, and so is
    what the image tower has in common with the captioner that shares it.

    Args:
        folder: Gets ``open_clip_config.json`` and ``model.safetensors``.
        start: The model whose configuration it has.
        model: The trained model.
        half: Whether every tensor is written in half precision.
    """
    config = dict(start.config)
    text_cfg = start.model_cfg["text_cfg"]
    is_custom = bool(start.model_cfg.get("custom_text")) or bool(text_cfg.get("hf_model_name"))
    # open_clip keeps the text tensors of its plain CLIP at the top level.
    prefix = "text." if is_custom else ""
    packaged = (text_cfg.get("hf_model_name") or "").startswith("package:")
    left_out = "transformer." if packaged and model.text.body_is_locked else None
    image, text = model.image.module.state_dict(), model.text.module.state_dict()
    shared = shared_tower(start)
    own = {n: t for n, t in image.items() if n not in shared or not torch.equal(t.cpu(), shared[n])}
    if len(own) == len(image):
        config.pop("image_tower", None)
    tensors = {f"visual.{name}": tensor for name, tensor in own.items()}
    tensors |= {
        f"{prefix}{name}": tensor
        for name, tensor in text.items()
        if left_out is None or not name.startswith(left_out)
    }
    tensors["logit_scale"] = model.logit_scale.detach()
    if model.logit_bias is not None:
        tensors["logit_bias"] = model.logit_bias.detach()
        # open_clip makes room for a bias only where the configuration has one.
        config["model_cfg"] = {"init_logit_bias": -10.0, **start.model_cfg}
    whole = {} if half or not start.weights.is_file() else tensors_below(start.weights, "")
    kinds = {name: tensor.dtype for name, tensor in whole.items() if tensor.is_floating_point()}
    written = {
        name: tensor.to(
            "cpu",
            kinds.get(name, torch.float16) if tensor.is_floating_point() else tensor.dtype,
        ).contiguous()
        for name, tensor in tensors.items()
    }
    content = save(written, {"format": "pt"})
    write_atomically(folder / LOCAL_WEIGHTS_NAME, content)
    write_atomically(folder / CONFIG_NAME, (json.dumps(config, indent=2) + "\n").encode())
