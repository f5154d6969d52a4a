"""An open_clip model that embeds images and texts in one space, its towers loaded apart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.models.clip.patches import PatchMap, PatchRelevance, area_seen
from core.models.clip.towers import (
    ClipFiles,
    ImageTower,
    TextTower,
    find_clip_files,
    load_image_tower,
    load_query_tower,
)
from core.models.devices import keep_freed_memory, resolve_device
from core.models.encoding import (
    Once,
    embed_in_batches,
    embed_texts,
    require_dim,
    require_precision,
)
from core.models.spec import ModelSpec
from core.models.views import View, views_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_log = logging.getLogger(__name__)

_IMAGE_BATCH = 16


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
        self._files = Once(self._find_files)
        self._image_tower = Once(self._load_image_tower)
        self._text_tower = Once(self._load_text_tower)
        self._views = Once(self._read_views)
        self._patch_map = Once(self._load_patch_map)
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

        return embed_texts(embed, texts, self._dim)

    def encode_image(self, images: Sequence[Image]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``images``.

        Of a model whose configuration lists views (:mod:`core.models.views`), a row is the mean
        direction of the unit embeddings of a picture's views. Never builds or reads the text tower.

        Args:
            images: RGB images of any size.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification, or the views are none.
        """
        tower, views = self.image_tower, self._views.get()

        def embed(batch: Sequence[Image]) -> torch.Tensor:
            import torch

            seen = [tower.preprocess(view.of(image)) for image in batch for view in views]
            pixels = torch.stack(seen)
            pixels = pixels.to(self._torch_device, memory_format=torch.channels_last)
            rows = tower.module(pixels)
            if len(views) == 1:
                return rows
            return torch.nn.functional.normalize(rows).unflatten(0, (-1, len(views))).mean(dim=1)

        return embed_in_batches(embed, images, max(1, _IMAGE_BATCH // len(views)), self._dim)

    def unload_idle(self, seconds: float) -> bool:
        """Forget towers that were not used for so long; return whether there were any."""
        towers: tuple[Once[Any], ...] = (self._image_tower, self._text_tower, self._patch_map)
        return any([tower.drop_if_idle(seconds) for tower in towers])

    def explain(self, image: Image, texts: np.ndarray) -> PatchRelevance:
        """Return how much each patch of an image, seen whole, speaks for each text.

        The first call loads the image tower if it was not, and its last block in float32.

        Args:
            image: RGB, of any size.
            texts: From :meth:`encode_text`, float32 (n, dim).

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: The tower is of a kind that cannot be explained.
        """
        pixels = self.image_tower.preprocess(image).to(self._torch_device)
        found = self._patch_map.get().relevance(pixels, texts)
        settings = self._files.get().config.get("preprocess_cfg") or {}
        return PatchRelevance(found, area_seen(settings.get("resize_mode"), image.size))

    def _load_patch_map(self) -> PatchMap:
        in_float = load_image_tower(self._files.get()).module
        blocks = getattr(getattr(in_float, "transformer", None), "resblocks", None)
        last = (blocks[-1] if blocks is not None else in_float).to(self._torch_device)
        return PatchMap(self.image_tower.module, last, self.spec.name)

    @property
    def _dim(self) -> int:
        return int(self._files.get().model_cfg["embed_dim"])

    @property
    def _torch_device(self) -> str:
        return resolve_device(self._device)

    def _find_files(self) -> ClipFiles:
        require_precision(self.spec, "fp32", "int8")
        files = find_clip_files(self.spec)
        require_dim(self.spec, files.model_cfg["embed_dim"])
        return files

    def _read_views(self) -> tuple[View, ...]:
        return views_of(self._files.get().config, self.spec.name)

    def _load_image_tower(self) -> ImageTower:
        from core.models.clip.int8 import to_8_bits
        from core.models.eight_bit import products_run_in_8_bits

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
        tower = load_query_tower(self._files.get())
        tower.module.to(self._torch_device)
        return tower
