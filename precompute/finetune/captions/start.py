"""The model that a captioner's training starts from, with what is trained in it marked."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from core.errors import MissingDependencyError, ModelError, SourceError
from core.models.captioner.settings import Decoding
from precompute.finetune.captions.files import CaptionerFiles
from precompute.finetune.captions.recipe import (
    CaptionRecipe,
    LoraRecipe,
    Wanted,
    default_instructions,
)
from precompute.mini.captioner_model import SMALL_DECODING

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from core.models.spec import ModelSpec
    from precompute.finetune.captions.training import CaptionTraining
    from precompute.finetune.shared.data import Pairs

_LARGE_PARAMETERS = 500_000_000
"""From here on all weights, their moments and their average no longer fit most machines."""


def find_model(given: str) -> ModelSpec:
    """Return the checkpoint that a path or Hub id means.

    Raises:
        ModelError: There is none, or it is not InstructBLIP.
    """
    from core.models.choose_captioner import captioner_spec
    from core.models.weights import files_of

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training that is ready to run.

    Attributes:
        training: What is trained, and how.
        files: Where it is written.
        decoding: How to caption while measuring.
        started_from: Source and revision of the checkpoint, for the record; None if from nothing.
    """

    training: CaptionTraining
    files: CaptionerFiles
    decoding: Decoding
    started_from: dict[str, Any] | None = None


class Start:
    """Finds or builds the model, and turns wishes into a training.

    Args:
        spec: The checkpoint; None for a model that :meth:`build_small` makes.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        trained_layers: Last blocks of the image tower to train as well.
        save_memory: Recompute what lies between blocks in the backward pass.

    Raises:
        ModelError: This machine has no such device.
    """

    def __init__(
        self,
        spec: ModelSpec | None,
        device: str = "auto",
        trained_layers: int = 0,
        save_memory: bool = False,
    ) -> None:
        """Choose the device and the number of processes."""
        self._spec = spec
        self._trained_layers = trained_layers
        self._save_memory = save_memory
        self._small: tuple[Any, Any] | None = None
        self.accelerator, self._device = _accelerator(device)

    def build_small(self, words_of: Pairs, vision: Path, min_count: int, seed: int) -> None:
        """Make a fresh Q-Former and language model behind a ViT, with the words of captions.

        Raises:
            SourceError: The folder holds no image tower of InstructBLIP's kind.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import BlipImageProcessor, InstructBlipVisionModel

        from precompute.mini.captioner_model import SmallSizes, new_model, new_tokenizer

        torch.manual_seed(seed)
        try:
            tower = InstructBlipVisionModel.from_pretrained(
                vision, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
            image_processor = BlipImageProcessor.from_pretrained(vision, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise SourceError(
                f"{vision} holds no image tower: give the folder that finetune distil wrote."
            ) from error
        texts = (text for captions in words_of.captions for text in captions)
        tokenizer = new_tokenizer(texts, min_count=min_count)
        self._small = new_model(tokenizer, tower, image_processor, SmallSizes())

    def prepare(
        self, recipe: CaptionRecipe, wanted: Wanted, out: Path, *, eight_bit: bool = False
    ) -> Prepared:
        """Read the weights, mark what is trained, and make the run's folder.

        Args:
            recipe: Its ``instructions`` may be empty: then those of the checkpoint are taught. What
                ``wanted`` decides is overwritten, and so is ``frozen_layers``.
            wanted: About the trained weights.
            out: Gets the model.
            eight_bit: Whether a whole model is written in 8 bits.

        Raises:
            ModelError: The checkpoint cannot be loaded.
            SourceError: What is wanted does not go together.
        """
        import torch

        from precompute.finetune.captions.objective import CaptionObjective
        from precompute.finetune.captions.training import CaptionTraining

        torch.manual_seed(recipe.seed)
        gpu = self._device.startswith("cuda")
        large = self._spec is not None and _is_large(self._spec)
        recipe = wanted.applied(recipe, large=large, gpu=gpu)
        if self._spec is not None and self._spec.base is not None and recipe.epochs:
            raise SourceError(
                f"{self._spec.name} is an adapter: start from its base, {self._spec.base.name}, "
                "or measure it with --epochs 0."
            )
        model, processor, decoding = self._model(recipe)
        layers = len(model.vision_model.encoder.layers)
        recipe = replace(recipe, frozen_layers=max(0, layers - self._trained_layers))
        decoding, recipe = _instructed(decoding, recipe)
        torch.manual_seed(recipe.seed)
        adapted = mark_trained(model, recipe) if recipe.epochs else None
        if eight_bit and adapted is not None:
            raise SourceError("--eight-bit is for a whole model; an adapter is small as it is.")
        if self._save_memory:
            save_memory(model)
        training = CaptionTraining(CaptionObjective(model, processor, recipe), self.accelerator)
        out.mkdir(parents=True, exist_ok=True)
        files = CaptionerFiles(out, decoding, adapted, self._spec, eight_bit=eight_bit)
        return Prepared(training, files, decoding, files.origin)

    def _model(self, recipe: CaptionRecipe) -> tuple[Any, Any, Decoding]:
        if self._small is not None:
            return self._small[0].to(self._device), self._small[1], SMALL_DECODING
        if self._spec is None:
            raise ModelError("There is no checkpoint to start from.")
        import torch

        from core.models.captioner.loading import decoding_of, read_instructblip

        half = self._device.startswith("cuda") and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if half and recipe.precision != "fp32" else "float32"
        model, processor = read_instructblip(
            self._spec, self._device, recipe.precision, dtype=dtype
        )
        return model, processor, decoding_of(self._spec)


def _accelerator(device: str) -> tuple[Accelerator, str]:
    """Return the engine of the loop, in bfloat16 where the device has it, and the device."""
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs

    from core.models.devices import resolve_device

    where = resolve_device(device)
    # The Q-Former's last layer makes something of the prompt that nothing reads.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    if where == "cpu":
        return Accelerator(cpu=True, kwargs_handlers=[unused]), where
    if ":" in where:
        torch.cuda.set_device(where)
    half = "bf16" if torch.cuda.is_bf16_supported() else "no"
    accelerator = Accelerator(mixed_precision=half, kwargs_handlers=[unused])
    return accelerator, where if ":" in where else str(accelerator.device)


def _instructed(decoding: Decoding, recipe: CaptionRecipe) -> tuple[Decoding, CaptionRecipe]:
    """Return the decoding and the recipe with the prompts that are taught."""
    if not recipe.instructions:
        taught = default_instructions(decoding.prompt, decoding.retry_prompt)
        return decoding, replace(recipe, instructions=taught)
    first, *others = (instruction.text for instruction in recipe.instructions)
    retry = others[0] if others else first
    return replace(decoding, prompt=first, retry_prompt=retry), recipe


def _is_large(spec: ModelSpec) -> bool:
    import torch
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    from core.models.weights import files_of

    folder = files_of(spec.base or spec, "config.json")
    config = InstructBlipConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(config)
    return sum(parameter.numel() for parameter in model.parameters()) > _LARGE_PARAMETERS


def mark_trained(model: Any, recipe: CaptionRecipe) -> Any:  # noqa: ANN401 - InstructBLIP
    """Let gradients reach what the recipe trains; put its adapter beside the language model.

    Args:
        model: Changed in place.
        recipe: ``trains``, ``frozen_layers``, ``lora`` and ``dropout`` decide.

    Returns:
        The model as peft saves it, or None without an adapter.

    Raises:
        SourceError: Nothing would be trained, or blocks of the image tower beside an adapter.
        MissingDependencyError: peft is needed and not installed.
    """
    layers = model.vision_model.encoder.layers
    if recipe.dropout is not None:
        _drop(model.language_model, recipe.dropout)
    if recipe.lora is not None:
        if recipe.frozen_layers < len(layers):
            raise SourceError("--trained-layers needs all weights; leave --lora-rank out.")
        adapted = _add_lora(model, recipe.lora, recipe.trains)
        _in_full_precision(model)
        return adapted
    if not recipe.trains and recipe.frozen_layers >= len(layers):
        raise SourceError("Nothing would be trained: name parts with --train.")
    if recipe.precision == "int8":
        raise SourceError("Weights in int8 cannot be trained; add an adapter with --lora-rank.")
    model.requires_grad_(False)
    for block in layers[recipe.frozen_layers :]:
        block.requires_grad_(True)
    if "language" in recipe.trains:
        model.language_model.requires_grad_(True)
    if "projection" in recipe.trains:
        model.language_projection.requires_grad_(True)
    if "qformer" in recipe.trains:
        model.qformer.requires_grad_(True)
        model.query_tokens.requires_grad_(True)
        model.vision_model.post_layernorm.requires_grad_(True)
    _in_full_precision(model)
    return None


def _drop(language_model: Any, share: float) -> None:  # noqa: ANN401 - any of transformers'
    import torch

    for module in language_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


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
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(kinds))})",
        modules_to_save=[whole[part] for part in trains if part in whole] or None,
    )
    return get_peft_model(model, config)


def _in_full_precision(model: Any) -> None:  # noqa: ANN401 - InstructBLIP
    """Keep what is trained in float32: in bfloat16 small steps would be rounded away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_memory(model: Any) -> None:  # noqa: ANN401 - InstructBLIP
    """Recompute what lies between blocks in the backward pass instead of keeping it."""
    for part in (model.qformer, model.language_model):
        module = getattr(part, "modules_to_save", {"default": part})["default"]
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
