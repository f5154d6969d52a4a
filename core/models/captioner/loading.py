"""Reading captioners from a folder or the Hub: whole and in safetensors, or one clear sentence."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.errors import MissingDependencyError, ModelError, ModelNotFoundError
from core.models.captioner.settings import DECODING_FILE, Decoding, read_decoding
from core.models.locate import MODEL_FILES, files_of, local_folder
from core.models.spec import ModelSpec, Precision

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_FULL_PRECISION_MODULES = ["lm_head", "qformer", "language_projection"]
"""Kept out of 8 bits: naming any replaces the default list, so ``lm_head`` is named again."""


def require_safetensors(name: str, folder: Path, setting: str = "TWOLENS_UPLOAD_CAPTIONER") -> None:
    """Raise ModelError unless a checkpoint's folder holds safetensors.

    Args:
        name: What the error calls the checkpoint.
        folder: Where its files are.
        setting: Where the checkpoint was named.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name} has no weights in safetensors, and TwoLens reads no others: save it in that "
            f"format once, as the README says, and name its folder in {setting}."
        )


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def supported_precision(precision: Precision, device: str) -> Precision:
    """Return the precision that a device and the installed packages allow in place of one."""
    if not device.startswith("cuda"):
        return "fp32"
    if precision == "int8" and not _has_bitsandbytes():
        _log.warning("bitsandbytes is not installed: bf16 instead of int8")
        return "bf16"
    return precision


def decoding_of(spec: ModelSpec) -> Decoding:
    """Return what a checkpoint asks for in ``twolens.json``; for an adapter, else its base."""
    inherited = decoding_of(spec.base) if spec.base else Decoding()
    return read_decoding(files_of(spec, DECODING_FILE), inherited)


def read_instructblip(
    spec: ModelSpec, device: str, precision: Precision, *, dtype: str = ""
) -> tuple[Any, Any]:
    """Return the model in evaluation mode on its device, and its processor.

    An adapter is merged into its base, or stays beside it if that is in 8 bits.

    Args:
        spec: Which checkpoint.
        device: A torch device.
        precision: Exactly this one.
        dtype: Of what is not in 8 bits, by its name in torch; bfloat16 unless in fp32.

    Raises:
        ModelNotFoundError: The checkpoint is not on this machine, nor reachable.
        MissingDependencyError: bitsandbytes or peft is needed and not installed.
        ModelError: The checkpoint is damaged, or its parts do not belong together.
    """
    import torch
    from transformers import (
        BitsAndBytesConfig,
        GenerationConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )
    from transformers.utils import GENERATION_CONFIG_NAME

    if spec.base is not None:
        from core.models.captioner.lora import add_adapter

        model, processor = read_instructblip(spec.base, device, precision, dtype=dtype)
        return add_adapter(model, spec, merge=precision != "int8"), processor
    if precision == "int8" and not _has_bitsandbytes():
        raise MissingDependencyError("bitsandbytes", "Captioning in 8 bits")
    folder = files_of(spec, *MODEL_FILES)
    quantization = None
    if precision == "int8":
        quantization = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=list(_FULL_PRECISION_MODULES)
        )
    with _damage_named(spec):
        processor = InstructBlipProcessor.from_pretrained(folder, local_files_only=True)
        multiplied_out = _multiplied_out(folder) if precision != "int8" else {}
        model, report = InstructBlipForConditionalGeneration.from_pretrained(
            None if multiplied_out else folder,
            dtype=getattr(torch, dtype or ("float32" if precision == "fp32" else "bfloat16")),
            use_safetensors=True,
            trust_remote_code=False,
            quantization_config=quantization,
            device_map={"": device} if quantization else None,
            output_loading_info=True,
            local_files_only=True,
            **multiplied_out,
        )
        if multiplied_out and (folder / GENERATION_CONFIG_NAME).is_file():
            # Read from tensors, a model knows nothing of how it is to write.
            model.generation_config = GenerationConfig.from_pretrained(folder)
    _check_complete(spec, report)
    _check_image_tokens(spec.name, model.config, processor)
    return (model if quantization else model.to(device)).eval(), processor


def read_blip(spec: ModelSpec) -> tuple[Any, Any, Path]:
    """Return a BLIP captioner's model in float32, its processor, and the folder they lie in.

    Raises:
        ModelNotFoundError: The checkpoint is not on this machine, nor reachable.
        ModelError: It is damaged, lacks weights, or has none in safetensors.
    """
    from transformers import BlipForConditionalGeneration, BlipProcessor

    folder = files_of(spec, *MODEL_FILES)
    require_safetensors(spec.name, folder)
    model, processor = _read(spec, folder, BlipForConditionalGeneration, BlipProcessor)
    return model, processor, folder


def read_matcher(spec: ModelSpec, dtype: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return the model and the processor of a checkpoint for image-text matching.

    Args:
        spec: Of ``BlipForImageTextRetrieval`` or ``Blip2ForImageTextRetrieval``.
        dtype: Of the weights, torch's.

    Raises:
        ModelNotFoundError: The checkpoint is not on this machine, nor reachable.
        ModelError: It is damaged, of another kind, or has none in safetensors.
    """
    from transformers import (
        AutoConfig,
        Blip2ForImageTextRetrieval,
        Blip2Processor,
        BlipForImageTextRetrieval,
        BlipProcessor,
    )

    folder = files_of(spec, *MODEL_FILES)
    with _damage_named(spec):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kinds: dict[str, tuple[Any, Any]] = {
        "blip": (BlipForImageTextRetrieval, BlipProcessor),
        "blip-2": (Blip2ForImageTextRetrieval, Blip2Processor),
    }
    if config.model_type not in kinds:
        raise ModelError(
            f"{spec.name} is a {config.model_type} model: pictures are reranked by image-text "
            "matching with BLIP or BLIP-2, such as Salesforce/blip2-itm-vit-g."
        )
    require_safetensors(spec.name, folder, "TWOLENS_RERANKER")
    return _read(spec, folder, *kinds[config.model_type], dtype=dtype)


def _read(
    spec: ModelSpec,
    folder: Path,
    kind: Any,  # noqa: ANN401 - classes of transformers, imported lazily
    processor_kind: Any,  # noqa: ANN401
    **how: Any,  # noqa: ANN401
) -> tuple[Any, Any]:
    """Return a model, whose weights are all there, and its processor; no remote code, no pickle."""
    with _damage_named(spec):
        processor = processor_kind.from_pretrained(folder, local_files_only=True)
        model, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            local_files_only=True,
            **how,
        )
    _check_complete(spec, report)
    return model, processor


def _multiplied_out(folder: Path) -> dict[str, Any]:
    """Return the configuration and weights of a checkpoint in 8 bits, in floats; else nothing.

    transformers would run it in 8 bits, which a CPU does slowly and only with bitsandbytes.
    """
    from transformers import InstructBlipConfig

    from core.models.tensors import is_8_bit, read_tensors

    config = InstructBlipConfig.from_pretrained(folder)
    if not is_8_bit(config):
        return {}
    del config.quantization_config
    return {"config": config, "state_dict": read_tensors(folder)}


@contextmanager
def _damage_named(spec: ModelSpec) -> Iterator[None]:
    """Turn what a loader raises into an error of ours."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"The weights of {spec.name} are damaged: {error}.") from error
    except (OSError, ValueError) as error:
        where = "folder" if local_folder(spec) else "repository"
        raise ModelNotFoundError(
            spec.name, f"Its {where} holds no complete checkpoint in safetensors."
        ) from error


def _check_complete(spec: ModelSpec, report: Any) -> None:  # noqa: ANN401 - transformers' own
    if report["missing_keys"]:
        raise ModelError(
            f"The checkpoint of {spec.name} lacks {len(report['missing_keys'])} of its weights, "
            f"{min(report['missing_keys'])} among them."
        )


def _check_image_tokens(name: str, config: Any, processor: Any) -> None:  # noqa: ANN401
    """Refuse a processor that would mark other places for the image than the model fills."""
    if processor.num_query_tokens != config.num_query_tokens:
        raise ModelError(
            f"The processor of {name} makes room for {processor.num_query_tokens} image tokens, "
            f"but its model has {config.num_query_tokens}."
        )
    marker = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
    if config.image_token_index is None or config.image_token_index != marker:
        raise ModelError(
            f"The model of {name} expects the image token {config.image_token_index}, but its "
            f"tokenizer writes {marker}."
        )
