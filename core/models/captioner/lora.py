"""LoRA adapters: which base one was trained for, and putting it onto that base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import MissingDependencyError, ModelError
from core.models.captioner.settings import DECODING_FILE
from core.models.locate import files_of, revision_of
from core.models.spec import ModelSpec

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def adapter_folder(spec: ModelSpec) -> Path:
    """Return the folder with an adapter's files, fetched from the Hub if they live there.

    Raises:
        ModelNotFoundError: It cannot be reached.
        ModelError: There are no weights in safetensors; nothing pickled is read.
    """
    folder = files_of(spec, ADAPTER_CONFIG, ADAPTER_WEIGHTS, DECODING_FILE)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"The adapter {spec.name} has no {ADAPTER_WEIGHTS}.")
    return folder


def base_of(folder: Path, name: str) -> tuple[str, str | None]:
    """Return the name or path of an adapter's base, and its revision if one is recorded.

    Raises:
        ModelError: The adapter's configuration cannot be read, is not LoRA, or names no base.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
        revision = config.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{ADAPTER_CONFIG} of {name} cannot be read.") from error
    if kind != "LORA":
        raise ModelError(f"{name} is an adapter of the kind {kind}; only LORA can be loaded.")
    if not isinstance(base, str) or not base:
        raise ModelError(f"The adapter {name} does not name the checkpoint it belongs to.")
    return base, revision


def recorded_base_revision(folder: Path) -> str | None:
    """Return the revision of the base that an adapter of ours was trained on, if it says so."""
    path = folder / DECODING_FILE
    if not path.is_file():
        return None
    base = json.loads(path.read_text(encoding="utf-8")).get("base") or {}
    return base.get("revision")


def add_adapter(model: Any, spec: ModelSpec, *, merge: bool) -> Any:  # noqa: ANN401 - InstructBLIP
    """Put an adapter onto its base and return the model, in evaluation mode.

    Args:
        model: The base, loaded.
        spec: The adapter; its ``base`` describes ``model``.
        merge: Add the adapter to the weights, which costs nothing later; not for 8 bits.

    Raises:
        MissingDependencyError: peft is not installed.
        ModelError: The adapter does not fit the base.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise MissingDependencyError("peft", "A captioner with an adapter") from error
    from safetensors import SafetensorError, safe_open

    folder = adapter_folder(spec)
    trained_on = recorded_base_revision(folder)
    base = spec.base.name if spec.base else "its base"
    if spec.base and trained_on not in (None, revision_of(spec.base)):
        raise ModelError(
            f"The adapter {spec.name} was trained on {base} at {trained_on}, but that checkpoint "
            f"is at {revision_of(spec.base)} here. Train it again, or bring the old one back."
        )
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        adapted = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
    except SafetensorError as error:
        raise ModelError(f"The weights of {spec.name} are damaged: {error}.") from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"The adapter {spec.name} does not fit {base}.") from error
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if stored != expected:
        raise ModelError(
            f"The adapter {spec.name} does not fit {base}: {len(stored ^ expected)} weights have "
            f"no counterpart, {min(stored ^ expected)} among them."
        )
    return (adapted.merge_and_unload() if merge else adapted.get_base_model()).eval()
