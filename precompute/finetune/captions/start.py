"""The model that a captioner's training starts from, with what is trained in it marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import MissingDependencyError, ModelError, SourceError
from core.models.captioner.settings import Decoding
from precompute.finetune.captions.files import CaptionerFiles
from precompute.finetune.captions.recipe import CaptionRecipe, LoraRecipe, default_instructions

if TYPE_CHECKING:
    from accelerate import Accelerator

    from core.models.spec import ModelSpec
    from precompute.finetune.captions.objective import CaptionObjective

_LARGE_PARAMETERS = 500_000_000
"""From here on all weights, their moments and their average no longer fit most machines."""

_LONGEST_WAIT = timedelta(days=7)


def find_model(given: str) -> ModelSpec:
    """Return the checkpoint that a path or Hub id means.

    Raises:
        ModelError: There is none, or it is not InstructBLIP.
    """
    from core.models.choose import captioner_spec
    from core.models.locate import files_of

    spec = captioner_spec(given)
    whole = spec.base or spec
    try:
        content = (files_of(whole, "config.json") / "config.json").read_text(encoding="utf-8")
        kind = json.loads(content)["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{whole.name} holds no InstructBLIP checkpoint.") from error
    if kind != "instructblip":
        raise ModelError(f"{whole.name} is a checkpoint of {kind}, not of instructblip.")
    return spec


class Prepared(NamedTuple):
    """The objective around a model, where it is written, and its processes and precision."""

    objective: CaptionObjective
    files: CaptionerFiles
    accelerator: Accelerator


Change = Callable[[Any, Any, Decoding], tuple[Any, Any, Decoding]]
"""Makes a model, its processor and its decoding of those that were read."""


def prepare(
    spec: ModelSpec,
    recipe: CaptionRecipe,
    out: Path,
    device: str,
    *,
    eight_bit: bool = False,
    change: Change | None = None,
) -> Prepared:
    """Read a checkpoint, mark what is trained, and make the run's folder.

    Args:
        spec: The checkpoint.
        recipe: Completed here by what it leaves to the model and the machine.
        out: Gets the model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        eight_bit: Whether a whole model is written in 8 bits.
        change: Makes another model of it, which then has no base; by torch's seed.

    Raises:
        ModelError: The checkpoint cannot be loaded, or this machine has no such device.
        SourceError: What the recipe asks for does not go together.
    """
    import torch

    from core.models.captioner.loading import decoding_of, read_instructblip
    from precompute.finetune.captions.objective import CaptionObjective

    accelerator, where = accelerator_on(device)
    gpu = where.startswith("cuda")
    recipe = recipe.completed(large=_is_large(spec), gpu=gpu)
    if spec.base is not None and recipe.epochs:
        raise SourceError(
            f"{spec.name} is an adapter: start from its base, {spec.base.name}, "
            "or measure it with --epochs 0."
        )
    half = gpu and torch.cuda.is_bf16_supported() and recipe.precision != "fp32"
    model, processor = read_instructblip(
        spec, where, recipe.precision or "fp32", dtype="bfloat16" if half else "float32"
    )
    decoding = decoding_of(spec)
    if change is not None:
        torch.manual_seed(recipe.seed)
        model, processor, decoding = change(model, processor, decoding)
        model.to(where)
    if recipe.instructions:
        first, *others = (instruction.text for instruction in recipe.instructions)
        decoding = replace(decoding, prompt=first, retry_prompt=others[0] if others else first)
    else:
        taught = default_instructions(decoding.prompt, decoding.retry_prompt)
        recipe = replace(recipe, instructions=taught)
    torch.manual_seed(recipe.seed)
    adapted = mark_trained(model, recipe) if recipe.epochs else None
    if eight_bit and adapted is not None:
        raise SourceError("--eight-bit is for a whole model; an adapter is small as it is.")
    if recipe.gradient_checkpointing:
        for part in (model.qformer, model.language_model):
            module = getattr(part, "modules_to_save", {"default": part})["default"]
            module.gradient_checkpointing_enable({"use_reentrant": False})
    out.mkdir(parents=True, exist_ok=True)
    base = None if change else spec
    files = CaptionerFiles(out, decoding, adapted, base, eight_bit=eight_bit)
    return Prepared(CaptionObjective(model, processor, recipe), files, accelerator)


def accelerator_on(device: str) -> tuple[Accelerator, str]:
    """Return the engine of the loop, in bfloat16 where the device has it, and the device."""
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    from core.models.devices import resolve_device

    where = resolve_device(device)
    # One process may encode images for hours while the others wait.
    patient = [InitProcessGroupKwargs(timeout=_LONGEST_WAIT)]
    if where == "cpu":
        return Accelerator(cpu=True, kwargs_handlers=patient), where
    if ":" in where:
        torch.cuda.set_device(where)
    half = "bf16" if torch.cuda.is_bf16_supported() else "no"
    accelerator = Accelerator(mixed_precision=half, kwargs_handlers=patient)
    return accelerator, where if ":" in where else str(accelerator.device)


def _is_large(spec: ModelSpec) -> bool:
    import torch
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    from core.models.locate import files_of

    folder = files_of(spec.base or spec, "config.json")
    config = InstructBlipConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(config)
    return sum(parameter.numel() for parameter in model.parameters()) > _LARGE_PARAMETERS


def mark_trained(model: Any, recipe: CaptionRecipe) -> Any:  # noqa: ANN401 - InstructBLIP
    """Let gradients reach what the recipe trains; put its adapter beside the language model.

    Args:
        model: Changed in place.
        recipe: Completed; ``trains``, ``lora`` and ``dropout`` decide.

    Returns:
        The model as peft saves it, or None without an adapter.

    Raises:
        MissingDependencyError: peft is needed and not installed.
    """
    import torch

    if recipe.dropout is not None:
        for module in model.language_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.dropout
    trains = recipe.trains or ()
    adapted = None
    if recipe.lora is not None:
        adapted = _add_lora(model, recipe.lora, trains)
    else:
        qformer = [model.qformer, model.query_tokens, model.vision_model.post_layernorm]
        modules = {"language": [model.language_model], "projection": [model.language_projection]}
        model.requires_grad_(False)
        for part in trains:
            for module in {**modules, "qformer": qformer}[part]:
                module.requires_grad_(True)
    # In bfloat16 small steps would be rounded away.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _add_lora(model: Any, lora: LoraRecipe, trains: tuple[str, ...]) -> Any:  # noqa: ANN401
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingDependencyError("peft", "Training an adapter") from error
    import torch

    head = model.language_model.get_output_embeddings()
    kinds = {
        name.rpartition(".")[2]
        for name, module in model.language_model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    whole = {"qformer": "qformer", "projection": "language_projection"}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(kinds))})",
        modules_to_save=[whole[part] for part in trains if part in whole] or None,
    )
    return get_peft_model(model, config)
