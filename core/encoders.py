"""Text and image encoders: all-MiniLM-L6-v2 for captions, open_clip for the joint space."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from core.clip_towers import (
    ClipFiles,
    ImageTower,
    TextTower,
    find_clip_files,
    hub_remedy,
    load_image_tower,
    load_text_tower,
)
from core.devices import resolve_device
from core.errors import ModelError, ModelNotFoundError
from core.models import ModelSpec
from core.weights import local_folder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer

_TEXT_BATCH = 128
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
    """all-MiniLM-L6-v2, or another sentence-transformers model, as a ``TextEncoder``.

    Args:
        spec: Which model; ``spec.dim`` is checked after the load.
        device: See :func:`core.devices.resolve_device`.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._model = _Once(self._load)
        # Fast tokenizers fail with "Already borrowed" when two threads set their padding.
        self._in_use = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model.made

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``texts``.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        import numpy as np

        model = self._model.get()
        if not texts:
            return np.zeros((0, _dim_of(model)), dtype=np.float32)
        with self._in_use:
            embeddings = model.encode(
                list(texts),
                batch_size=_TEXT_BATCH,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return np.ascontiguousarray(embeddings, dtype=np.float32)

    def _load(self) -> SentenceTransformer:
        _require_fp32(self.spec)
        folder = local_folder(self.spec)
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(folder or self.spec.source.removeprefix("hub:")),
                revision=self.spec.revision if folder is None else None,
                local_files_only=folder is not None,
                device=resolve_device(self._device),
                model_kwargs={"use_safetensors": True, "dtype": "float32"},
            )
        except (OSError, ValueError, KeyError) as error:
            remedy = "Its folder is incomplete." if folder else hub_remedy(self.spec)
            raise ModelNotFoundError(self.spec.name, remedy) from error
        _require_dim(self.spec, _dim_of(model))
        return model


class ClipEncoder:
    """An open_clip model as ``ImageEncoder`` and ``TextEncoder``; its towers load separately.

    Args:
        spec: Which model; ``spec.dim`` is checked after the load.
        device: See :func:`core.devices.resolve_device`.
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

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``texts``.

        Never builds or reads the image tower.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        import numpy as np

        tower = self._text_tower.get()

        def embed(batch: Sequence[str]) -> torch.Tensor:
            with self._tokenizing:
                ids = tower.tokenize(batch)
            return tower.module(ids.to(self._torch_device))

        # By length, so that short texts are not padded to a long one's.
        order = np.argsort([len(text) for text in texts], kind="stable")
        embeddings = self._in_batches(embed, [texts[row] for row in order], _TEXT_BATCH)
        return embeddings[np.argsort(order)]

    def encode_image(self, images: Sequence[Image]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``images``.

        Never builds or reads the text tower.

        Args:
            images: RGB images of any size.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        tower = self._image_tower.get()

        def embed(batch: Sequence[Image]) -> torch.Tensor:
            import torch

            pixels = torch.stack([tower.preprocess(image) for image in batch])
            pixels = pixels.to(self._torch_device, memory_format=torch.channels_last)
            return tower.module(pixels)

        return self._in_batches(embed, images, _IMAGE_BATCH)

    def _in_batches(
        self, embed: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T], size: int
    ) -> np.ndarray:
        import numpy as np
        import torch

        embeddings = np.empty((len(items), self._files.get().model_cfg["embed_dim"]), np.float32)
        with torch.inference_mode():
            for start in range(0, len(items), size):
                batch = embed(items[start : start + size]).float()
                embeddings[start : start + size] = torch.nn.functional.normalize(batch).cpu()
        return embeddings

    @property
    def _torch_device(self) -> str:
        return resolve_device(self._device)

    def _find_files(self) -> ClipFiles:
        _require_fp32(self.spec)
        files = find_clip_files(self.spec)
        _require_dim(self.spec, files.model_cfg["embed_dim"])
        return files

    def _load_image_tower(self) -> ImageTower:
        tower = load_image_tower(self._files.get())
        tower.module.to(self._torch_device)
        return tower

    def _load_text_tower(self) -> TextTower:
        tower = load_text_tower(self._files.get())
        tower.module.to(self._torch_device)
        return tower


def _dim_of(model: SentenceTransformer) -> int:
    return int(model.get_embedding_dimension() or 0)


def _require_dim(spec: ModelSpec, found: int) -> None:
    if spec.dim is not None and found != spec.dim:
        raise ModelError(
            f"The model {spec.name} gives embeddings of length {found}, but {spec.dim} is expected."
        )


def _require_fp32(spec: ModelSpec) -> None:
    if spec.precision != "fp32":
        raise ModelError(f"The encoder {spec.name} runs in fp32, not in {spec.precision}.")
