"""Image-text matching by BLIP or BLIP-2: one model that looks at picture and words together.

Each picture costs a pass of the whole model, where CLIP's embedding is there already: it is for
ordering the first few of a ranking anew (Li et al. 2023, "BLIP-2", https://arxiv.org/abs/2301.12597,
section 4.4).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.models.captioner.loading import read_matcher
from core.models.devices import resolve_device
from core.models.encoding import Once
from core.models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_BATCH = 8
"""Pictures that are in memory as tensors at once."""
_TEXT_BATCH = 32


class Matcher(Protocol):
    """Tells how well words fit pictures."""

    spec: ModelSpec

    def match(self, images: Sequence[Image], query: str) -> np.ndarray:
        """Return for each RGB image how well a query fits it: float32 (n,), 0 is undecided."""
        ...


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    processor: Any
    device: str
    dtype: Any


class ImageTextMatcher:
    """Runs a ``Blip2ForImageTextRetrieval`` or ``BlipForImageTextRetrieval`` checkpoint.

    In bfloat16 on a GPU, else in float32. Cheap to make, and loaded when it is first used; safe to
    use from many threads, of which one works at a time.

    Args:
        spec: Which checkpoint; one without safetensors is refused.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._model = Once(self._load)
        self._working = threading.Lock()

    def load(self) -> None:
        """Read the weights, unless that was done.

        Raises:
            ModelNotFoundError: The checkpoint is not on this machine, nor reachable.
            ModelError: It is damaged, of another kind, or has no weights in safetensors.
        """
        self._model.get()

    def unload_idle(self, seconds: float) -> bool:
        """Forget weights that were not used for so long; return whether there were any."""
        return self._model.drop_if_idle(seconds)

    def match(self, images: Sequence[Image], query: str) -> np.ndarray:
        """Return for each RGB image how well a query fits it.

        Returns:
            float32 (n,): the logit of a match less that of none. 0 is undecided, and the logistic
            function makes it a probability.

        Raises:
            ModelError: See :meth:`load`.
        """
        import numpy as np

        parts = [np.empty(0, np.float32)]
        with self._working:
            for start in range(0, len(images), _BATCH):
                batch = images[start : start + _BATCH]
                parts.append(self._margins(self._seen(batch), [query] * len(batch)))
        return np.concatenate(parts)

    def match_texts(self, image: Image, queries: Sequence[str]) -> np.ndarray:
        """Return how well each query fits one RGB image, through one pass of the image tower.

        Returns:
            float32 (queries,), as of :meth:`match`.

        Raises:
            ModelError: See :meth:`load`.
        """
        import numpy as np

        parts = [np.empty(0, np.float32)]
        with self._working:
            seen = self._seen([image])
            for start in range(0, len(queries), _TEXT_BATCH):
                batch = queries[start : start + _TEXT_BATCH]
                parts.append(self._margins(seen.expand(len(batch), -1, -1), batch))
        return np.concatenate(parts)

    def _load(self) -> _Loaded:
        import torch

        device = resolve_device(self._device)
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        model, processor = read_matcher(self.spec, dtype)
        return _Loaded(model.to(device).eval(), processor, device, dtype)

    def _seen(self, images: Sequence[Image]) -> torch.Tensor:
        """Return what the image tower makes of images: (n, patches, width)."""
        import torch

        loaded = self._model.get()
        pixels = loaded.processor.image_processor(list(images), return_tensors="pt").pixel_values
        with torch.inference_mode():
            seen: torch.Tensor = loaded.model.vision_model(
                pixel_values=pixels.to(loaded.device, loaded.dtype)
            ).last_hidden_state
        return seen

    def _margins(self, seen: torch.Tensor, queries: Sequence[str]) -> np.ndarray:
        import torch

        loaded = self._model.get()
        model = loaded.model
        words = loaded.processor.tokenizer(
            list(queries),
            padding=True,
            truncation=True,
            max_length=_most_tokens(model),
            return_tensors="pt",
        ).to(loaded.device)
        # Not by the model's own forward: that of BLIP makes its mask on the CPU, and that of BLIP-2
        # wants room for the picture among the words from some checkpoints and not from others.
        patches = torch.ones(seen.shape[:2], dtype=torch.long, device=loaded.device)
        with torch.inference_mode():
            if hasattr(model, "qformer"):
                # Which parts stay in float32 differs from version to version of transformers.
                own_type = model.qformer.layernorm.weight.dtype
                seen = seen.to(own_type)
                tokens = model.query_tokens.to(own_type).expand(len(seen), -1, -1)
                own = torch.ones(tokens.shape[:2], dtype=torch.long, device=loaded.device)
                read = model.qformer(
                    query_embeds=model.embeddings(input_ids=words.input_ids, query_embeds=tokens),
                    query_length=tokens.shape[1],
                    attention_mask=torch.cat([own, words.attention_mask], dim=1),
                    encoder_hidden_states=seen,
                    encoder_attention_mask=patches,
                ).last_hidden_state[:, : tokens.shape[1]]
            else:
                read = model.text_encoder(
                    input_ids=words.input_ids,
                    attention_mask=words.attention_mask,
                    encoder_hidden_states=seen,
                    encoder_attention_mask=patches,
                ).last_hidden_state[:, :1]
            logits = model.itm_head(read.to(model.itm_head.weight.dtype)).float().mean(dim=1)
        margins: np.ndarray = (logits[:, 1] - logits[:, 0]).cpu().numpy()
        return margins


def _most_tokens(model: Any) -> int:  # noqa: ANN401
    config = model.config
    text = config.qformer_config if hasattr(model, "qformer") else config.text_config
    return int(text.max_position_embeddings)
