"""Text and image encoders: all-MiniLM-L6-v2 for captions, open_clip for the joint space."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from core.errors import ModelError, ModelNotFoundError
from core.models.clip.towers import (
    ClipFiles,
    ImageTower,
    TextTower,
    find_clip_files,
    hub_remedy,
    load_image_tower,
    load_text_tower,
)
from core.models.devices import keep_freed_memory, resolve_device
from core.models.spec import ModelSpec, Precision
from core.models.weights import local_folder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_log = logging.getLogger(__name__)

_TEXT_BATCH = 128
_MOST_TOKENS = 256
_IMAGE_BATCH = 16

T = TypeVar("T")


class _Once(Generic[T]):
    """A value made by the first thread that asks, while the others wait.

    A make that fails leaves nothing behind: the next caller tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None

    @property
    def made(self) -> bool:
        return self._value is not None

    def get(self) -> T:
        if self._value is None:
            with self._lock:
                if self._value is None:
                    self._value = self._make()
        return self._value


class MiniLmEncoder:
    """all-MiniLM-L6-v2, or another BERT-like sentence encoder with mean pooling.

    What ``sentence_transformers`` computes for it, token for token, without that package's
    import, which would be a quarter of the time from the app's start to its first answer.

    Args:
        spec: Which model; ``spec.dim`` is checked after the load.
        device: See :func:`core.models.devices.resolve_device`.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._model = _Once(self._load)
        # Fast tokenizers fail with "Already borrowed" when two threads set their padding.
        self._tokenizing = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model.made

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``texts``.

        Of a longer text the first 256 tokens count.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        tokenizer, model = self._model.get()

        def embed(batch: Sequence[str]) -> torch.Tensor:
            with self._tokenizing:
                tokens = tokenizer(
                    list(batch),
                    padding=True,
                    truncation=True,
                    max_length=_MOST_TOKENS,
                    return_tensors="pt",
                ).to(model.device)
            mask = tokens["attention_mask"].unsqueeze(-1)
            return (model(**tokens).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)

        return _texts_in_batches(embed, texts, model.config.hidden_size)

    def _load(self) -> tuple[Any, Any]:
        _require_precision(self.spec, "fp32")
        folder = local_folder(self.spec)
        from transformers import AutoModel, AutoTokenizer

        where = str(folder or self.spec.source.removeprefix("hub:"))
        options = {"local_files_only": True} if folder else {"revision": self.spec.revision}
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model = AutoModel.from_pretrained(
                where,
                use_safetensors=True,
                trust_remote_code=False,
                dtype="float32",
                # Sentences are pooled from the tokens; BERT's own pooler is not a part of it.
                add_pooling_layer=False,
                **options,
            )
        except (OSError, ValueError, KeyError) as error:
            remedy = "Its folder is incomplete." if folder else hub_remedy(self.spec)
            raise ModelNotFoundError(self.spec.name, remedy) from error
        _require_dim(self.spec, model.config.hidden_size)
        return tokenizer, model.to(resolve_device(self._device)).eval()


class ClipEncoder:
    """An open_clip model as ``ImageEncoder`` and ``TextEncoder``; its towers load separately.

    Args:
        spec: Which model; ``spec.dim`` is checked after the load. In ``int8`` its image tower
            multiplies in 8 bits on a CPU that can (:mod:`.int8`); all else is float32.
        device: See :func:`core.models.devices.resolve_device`.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._files = _Once(self._find_files)
        self._image_tower = _Once(self._load_image_tower)
        self._text_tower = _Once(self._load_text_tower)
        self._tokenizing = threading.Lock()

    @property
    def loaded_towers(self) -> tuple[str, ...]:
        """Names of the towers in memory, from ``image`` and ``text``."""
        towers = {"image": self._image_tower.made, "text": self._text_tower.made}
        return tuple(name for name, made in towers.items() if made)

    @property
    def image_tower(self) -> ImageTower:
        """The image tower, loaded if it was not.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        return self._image_tower.get()

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``texts``.

        Never builds or reads the image tower.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        tower = self._text_tower.get()

        def embed(batch: Sequence[str]) -> torch.Tensor:
            with self._tokenizing:
                ids = tower.tokenize(batch)
            return tower.module(ids.to(self._torch_device))

        return _texts_in_batches(embed, texts, self._dim)

    def encode_image(self, images: Sequence[Image]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``images``.

        Never builds or reads the text tower.

        Args:
            images: RGB images of any size.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        tower = self.image_tower

        def embed(batch: Sequence[Image]) -> torch.Tensor:
            import torch

            pixels = torch.stack([tower.preprocess(image) for image in batch])
            pixels = pixels.to(self._torch_device, memory_format=torch.channels_last)
            return tower.module(pixels)

        return _in_batches(embed, images, _IMAGE_BATCH, self._dim)

    @property
    def _dim(self) -> int:
        return int(self._files.get().model_cfg["embed_dim"])

    @property
    def _torch_device(self) -> str:
        return resolve_device(self._device)

    def _find_files(self) -> ClipFiles:
        _require_precision(self.spec, "fp32", "int8")
        files = find_clip_files(self.spec)
        _require_dim(self.spec, files.model_cfg["embed_dim"])
        return files

    def _load_image_tower(self) -> ImageTower:
        from core.models.clip.int8 import products_run_in_8_bits, to_8_bits

        tower = load_image_tower(self._files.get())
        if self._torch_device == "cpu":
            keep_freed_memory()
        if self._torch_device == "cpu" and self.spec.precision == "int8":
            if products_run_in_8_bits():
                to_8_bits(tower.module, self.spec.name)
            else:
                _log.info("%s runs in fp32, for this CPU has no products in 8 bits", self.spec.name)
        tower.module.to(self._torch_device)
        return tower

    def _load_text_tower(self) -> TextTower:
        tower = load_text_tower(self._files.get())
        tower.module.to(self._torch_device)
        return tower


def _texts_in_batches(
    embed: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], dim: int
) -> np.ndarray:
    """Embed texts by length, so that short ones are not padded to a long one's, in their order."""
    import numpy as np

    order = np.argsort([len(text) for text in texts], kind="stable")
    embeddings = _in_batches(embed, [texts[row] for row in order], _TEXT_BATCH, dim)
    return embeddings[np.argsort(order)]


def _in_batches(
    embed: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T], size: int, dim: int
) -> np.ndarray:
    import numpy as np
    import torch

    embeddings = np.empty((len(items), dim), np.float32)
    with torch.inference_mode():
        for start in range(0, len(items), size):
            batch = embed(items[start : start + size]).float()
            embeddings[start : start + size] = torch.nn.functional.normalize(batch).cpu()
    return embeddings


def _require_dim(spec: ModelSpec, found: int) -> None:
    if spec.dim is not None and found != spec.dim:
        raise ModelError(
            f"The model {spec.name} gives embeddings of length {found}, but {spec.dim} is expected."
        )


def _require_precision(spec: ModelSpec, *known: Precision) -> None:
    if spec.precision not in known:
        raise ModelError(
            f"The encoder {spec.name} runs in {' or '.join(known)}, not in {spec.precision}."
        )
