"""The two towers of an open_clip model, each built and read without the other.

``open_clip.create_model`` always builds and reads both. A text search needs one, so the towers
are built here by the functions that ``create_model`` itself calls, and filled with only their own
tensors of the safetensors file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ModelError, ModelNotFoundError
from core.models.clip.sentence_tower import (
    SentenceTower,
    build_sentence_tower,
    is_sentence_tower,
    sentence_tokenizer,
)
from core.models.locate import hub_files, local_folder
from core.models.sentence.bert import read_config
from core.models.spec import ModelSpec, Precision
from core.models.tensors import tensors_below

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CONFIG_NAME = "open_clip_config.json"
LOCAL_WEIGHTS_NAME = "model.safetensors"
HUB_WEIGHTS_NAME = "open_clip_model.safetensors"

_BASE_PREFIX = "package:"
_CONTEXT_LENGTH = 77
"""open_clip's, where a configuration says nothing."""
_OUTSIDE_TOWERS = frozenset({"logit_scale", "logit_bias"})


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """Where an open_clip model is, and its configuration.

    Attributes:
        spec: The model.
        config: Content of ``open_clip_config.json``: ``model_cfg`` and ``preprocess_cfg``.
        weights: The safetensors file; may hold half-precision tensors. It is looked for when a
            tower is read, so a configuration alone can be trained from.
    """

    spec: ModelSpec
    config: Mapping[str, Any]
    weights: Path

    @property
    def model_cfg(self) -> Mapping[str, Any]:
        """Architecture, in open_clip's own terms."""
        return self.config["model_cfg"]


@dataclass(frozen=True, slots=True)
class ImageTower:
    """A loaded image tower.

    Attributes:
        module: Maps float pixels (n, 3, height, width) to (n, dim), not normalised.
        preprocess: Maps an RGB image to float pixels (3, height, width).
    """

    module: torch.nn.Module
    preprocess: Callable[[Image], torch.Tensor]


@dataclass(frozen=True, slots=True)
class TextTower:
    """A loaded text tower.

    Attributes:
        module: Maps token ids (n, length) to (n, dim), not normalised.
        tokenize: Maps texts to token ids (n, length); not thread-safe.
    """

    module: torch.nn.Module | SentenceTower
    tokenize: Callable[[Sequence[str]], torch.Tensor]


def find_clip_files(spec: ModelSpec) -> ClipFiles:
    """Find a model's configuration and weights, in a local folder or on the Hub.

    Raises:
        ModelNotFoundError: The configuration is missing or unreadable, or the Hub holds no such
            model or cannot be reached.
    """
    folder = local_folder(spec)
    if folder is None:
        config_path, weights = hub_files(spec, CONFIG_NAME, HUB_WEIGHTS_NAME)
    else:
        config_path, weights = folder / CONFIG_NAME, folder / LOCAL_WEIGHTS_NAME
        if not config_path.is_file():
            raise ModelNotFoundError(spec.name, f"Its folder has no {CONFIG_NAME}.")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFoundError(spec.name, f"Its {CONFIG_NAME} is not valid JSON.") from error
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise ModelNotFoundError(spec.name, f"Its {CONFIG_NAME} has no model_cfg.")
    return ClipFiles(spec, config, weights)


def load_image_tower(files: ClipFiles) -> ImageTower:
    """Build the image tower and read its tensors, in fp32 on the CPU, in evaluation mode.

    Where the configuration names an InstructBLIP checkpoint as the ``image_tower``
    (``"asset:NAME"``), the file needs only what differs from that checkpoint's own tower.

    Raises:
        ModelNotFoundError: The weights are missing or do not fit the configuration.
    """
    tower = new_image_tower(files)
    _fill(tower.module, files, prefix="visual.", supplied_elsewhere="", shared=shared_tower(files))
    return tower


def load_text_tower(files: ClipFiles) -> TextTower:
    """Build the text tower and read its tensors, in fp32 on the CPU, in evaluation mode.

    Where the configuration takes the transformer from an installed package
    (``"hf_model_name": "package:MODULE/FOLDER"``), the file needs only what was trained.

    Raises:
        ModelNotFoundError: The weights or the package are missing, or do not fit.
    """
    tower = new_text_tower(files)
    supplied = "transformer." if _base_package(files.model_cfg) else ""
    _fill(tower.module, files, prefix="text.", supplied_elsewhere=supplied)
    return tower


def load_query_tower(files: ClipFiles) -> TextTower:
    """Return :func:`load_text_tower` for inference alone, built without open_clip where it can be.

    Raises:
        ModelNotFoundError: The weights or the package are missing, or do not fit.
    """
    base, text_cfg = _base_package(files.model_cfg), files.model_cfg["text_cfg"]
    if base is None or not is_sentence_tower(text_cfg, base):
        return load_text_tower(files)
    from safetensors import SafetensorError

    projection = _projection(
        int(read_config(base)["hidden_size"]),
        text_cfg.get("hf_proj_width"),
        files.model_cfg["embed_dim"],
    )
    length = text_cfg.get("context_length", _CONTEXT_LENGTH)
    try:
        tensors = tensors_below(files.weights, "text.")
        tower = build_sentence_tower(tensors, projection, base)
        return TextTower(tower, sentence_tokenizer(base, length))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelNotFoundError(
            files.spec.name, f"The text tower in {files.weights.name} does not fit its config."
        ) from error


def _projection(features: int, width: int | None, dim: int) -> torch.nn.Module:
    """Return the last layers of a text tower; open_clip's own have no ``width``."""
    from torch import nn

    if width is not None:
        return _wide_projection(features, width, dim)
    middle = (features + dim) // 2
    return nn.Sequential(
        nn.Linear(features, middle, bias=False), nn.GELU(), nn.Linear(middle, dim, bias=False)
    )


def new_image_tower(files: ClipFiles) -> ImageTower:
    """Build the image tower with random weights, and its preprocessing."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    module = build_image_tower(files.model_cfg)
    settings = dict(files.config.get("preprocess_cfg") or {})
    settings["size"] = module.image_size
    preprocess = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    # Convolutions on a CPU run up to twice as fast with the channels innermost.
    return ImageTower(module.eval().to(memory_format=torch.channels_last), preprocess)


def new_text_tower(files: ClipFiles) -> TextTower:
    """Build the text tower, random but for what a package supplies, and its tokenizer."""
    module = build_text_tower(files.model_cfg)
    return TextTower(module.eval(), text_tokenizer(files.model_cfg))


def build_image_tower(model_cfg: Mapping[str, Any]) -> torch.nn.Module:
    """Build the image tower of an open_clip configuration, with random weights."""
    from open_clip.model import _build_vision_tower

    quick_gelu = bool(model_cfg.get("quick_gelu", False))
    return _build_vision_tower(model_cfg["embed_dim"], dict(model_cfg["vision_cfg"]), quick_gelu)


def build_text_tower(model_cfg: Mapping[str, Any]) -> torch.nn.Module:
    """Build the text tower of an open_clip configuration.

    Weights are random, but for a transformer that an installed package supplies. Beside what
    open_clip knows, ``hf_proj_width`` gives the inner width of an MLP as the last projection,
    which open_clip would make narrow and without biases.
    """
    from open_clip.model import _build_text_tower

    text_cfg = dict(model_cfg["text_cfg"])
    width = text_cfg.pop("hf_proj_width", None)
    base = _base_package(model_cfg)
    if "hf_model_name" in text_cfg:
        text_cfg["hf_model_name"] = str(base or text_cfg["hf_model_name"])
        text_cfg["hf_model_pretrained"] = base is not None
    quick_gelu = bool(model_cfg.get("quick_gelu", False))
    tower = _build_text_tower(model_cfg["embed_dim"], text_cfg, quick_gelu).float()
    if width is not None:
        tower.proj = _wide_projection(tower.proj[0].in_features, width, model_cfg["embed_dim"])
    return tower


def _wide_projection(features: int, width: int, dim: int) -> torch.nn.Module:
    from torch import nn

    # The dropout counts in training only.
    return nn.Sequential(
        nn.Linear(features, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, dim)
    )


def text_tokenizer(model_cfg: Mapping[str, Any]) -> Callable[[Sequence[str]], torch.Tensor]:
    """Return the tokenizer of an open_clip configuration.

    open_clip pads every text to the context length, which costs a short query most of its time.
    Transformers of Hugging Face mask the padding, so the columns that are padding in every row
    are cut; open_clip's own text transformer accepts the full length only.
    """
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    text_cfg = model_cfg["text_cfg"]
    length = text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if name := text_cfg.get("hf_tokenizer_name"):
        name = str(_package_folder(name) or name)
        mode = text_cfg.get("tokenizer_mode")
        pad = HFTokenizer(name, context_length=length, tokenizer_mode=mode, **options)
    else:
        pad = SimpleTokenizer(context_length=length, **options)
    if not text_cfg.get("hf_model_name"):
        return lambda texts: pad(list(texts))

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        ids = pad(list(texts))
        return ids[:, : max(1, int((ids != pad.tokenizer.pad_token_id).sum(dim=1).max()))]

    return tokenize


def _base_package(model_cfg: Mapping[str, Any]) -> Path | None:
    return _package_folder(model_cfg["text_cfg"].get("hf_model_name", ""))


def _package_folder(name: str) -> Path | None:
    if not name.startswith(_BASE_PREFIX):
        return None
    return local_folder(ModelSpec(name.removeprefix(_BASE_PREFIX), name, licence=""))


def tower_owner(files: ClipFiles) -> ModelSpec | None:
    """Return the InstructBLIP checkpoint whose image tower a model uses, if it uses one."""
    source = files.config.get("image_tower")
    if not isinstance(source, str):
        return None
    return ModelSpec(source.partition(":")[2], source, licence="")


def image_precision(files: ClipFiles) -> Precision:
    """Return in what precision a model's image tower runs on a CPU, as its configuration says.

    Raises:
        ModelError: It names one that is not known.
    """
    given = files.config.get("image_precision", "fp32")
    if given == "fp32" or given == "int8":
        return given
    raise ModelError(
        f"The configuration of {files.spec.name} has the image_precision {given!r}; fp32 and int8 "
        "are known."
    )


def shared_tower(files: ClipFiles) -> dict[str, torch.Tensor]:
    """Return the image tower that is a captioner's too, by open_clip's names, or nothing.

    Raises:
        ModelNotFoundError: The captioner's checkpoint is missing or holds no such tower.
    """
    from safetensors import SafetensorError

    from core.models.clip.shared_tower import VISION_PREFIX, as_open_clip
    from core.models.tensors import read_tensors

    owner = tower_owner(files)
    folder = local_folder(owner) if owner else None
    if folder is None:
        return {}
    try:
        return as_open_clip(read_tensors(folder, VISION_PREFIX))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelNotFoundError(
            files.spec.name, f"The image tower of {folder.name} cannot be read."
        ) from error


def _fill(
    module: torch.nn.Module,
    files: ClipFiles,
    *,
    prefix: str,
    supplied_elsewhere: str,
    shared: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Copy a tower's tensors from the file into it; every one must be there and fit.

    CLIP models without a custom text tower keep the text tensors at the top level.
    """
    from safetensors import SafetensorError, safe_open

    if not files.weights.is_file():
        raise ModelNotFoundError(files.spec.name, f"Its folder has no {files.weights.name}.")
    try:
        with safe_open(files.weights, framework="pt") as file:
            names = list(file.keys())
            if prefix == "text." and not any(name.startswith(prefix) for name in names):
                stored_names = {
                    name: name
                    for name in names
                    if not name.startswith("visual.") and name not in _OUTSIDE_TOWERS
                }
            else:
                stored_names = {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
            tensors = {key: file.get_tensor(name) for key, name in stored_names.items()}
        tensors = {**(shared or {}), **tensors}
        known = module.state_dict()
        # Old checkpoints carry this index buffer, which transformers no longer registers.
        tensors.pop("transformer.embeddings.position_ids", None)
        missing = [
            key
            for key in known
            if key not in tensors
            and not (supplied_elsewhere and key.startswith(supplied_elsewhere))
        ]
        if missing:
            raise KeyError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
        module.load_state_dict(tensors, strict=False)
        if unknown := sorted(set(tensors) - set(known)):
            raise KeyError(f"{len(unknown)} tensors are unknown, the first is {unknown[0]}")
    except (SafetensorError, KeyError, RuntimeError) as error:
        tower = "image" if prefix == "visual." else "text"
        raise ModelNotFoundError(
            files.spec.name, f"The {tower} tower in {files.weights.name} does not fit its config."
        ) from error
