"""InstructBLIP and BLIP as captioners; the first in 8 bits, bfloat16 or float32."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import TYPE_CHECKING, Any

from core.captioner_reading import (
    decoding_of,
    read_blip,
    read_instructblip,
    supported_precision,
)
from core.decoding import Decoding, read_decoding
from core.generation import better, judged, search_arguments, unlike
from core.models import ModelSpec, Precision
from core.records import Caption
from core.sampling import sampling_arguments

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger(__name__)

_LARGEST_BATCH = 32
"""Images that are in memory as tensors at once; a longer request is cut into several."""

BLIP_DECODING = Decoding(
    prompt="",
    retry_prompt="",
    num_beams=3,
    min_new_tokens=5,
    max_new_tokens=30,
    repetition_penalty=1.0,
)
"""BLIP's authors' search for captions."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    processor: Any
    device: str
    decoding: Decoding
    suppressed: list[int] | None


class _GeneratingCaptioner(ABC):
    """What captioners that generate token by token have in common: loading once, and one retry."""

    def __init__(
        self, spec: ModelSpec, *, device: str = "auto", decoding: Decoding | None = None
    ) -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._decoding = decoding
        self._lock = RLock()
        self._loaded: _Loaded | None = None

    def load(self) -> None:
        """Read the weights unless that was done; safe to call from several threads.

        Raises:
            ModelNotFoundError: The checkpoint is not on this machine, nor reachable.
            MissingDependencyError: 8 bits were demanded and bitsandbytes is not installed.
            ModelError: The checkpoint is damaged, or its parts do not belong together.
        """
        self._ready()

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """Caption RGB images, in order; a doubtful caption is decoded once more, differently.

        Returns:
            One caption an image. Its text is empty only under the flag ``empty``; ``retried``
            says that the first attempt was doubtful. The confidence is the mean probability that
            the model itself, before any penalty or constraint of the search, gave the generated
            tokens, the end token among them.
        """
        captions: list[Caption] = []
        for start in range(0, len(images), _LARGEST_BATCH):
            captions += self._caption_batch(images[start : start + _LARGEST_BATCH])
        return captions

    def caption_several(self, images: Sequence[Image], count: int) -> list[tuple[Caption, ...]]:
        """Write several captions of each RGB image, in order.

        Returns:
            For each image the caption of :meth:`caption`, then candidates for ``count`` - 1 more
            (:class:`core.decoding.FurtherCaptions`), the surest ones first; none of them is
            doubtful, and no two of an image have the same words. They may be fewer, or more.
        """
        first = self.caption(images)
        if count <= 1:
            return [(caption,) for caption in first]
        found: list[tuple[Caption, ...]] = []
        for start in range(0, len(images), _LARGEST_BATCH):
            further = self._further(images[start : start + _LARGEST_BATCH], count - 1)
            own = first[start : start + len(further)]
            found += [unlike((one, *more)) for one, more in zip(own, further, strict=True)]
        return found

    def _further(self, images: Sequence[Image], wanted: int) -> list[list[Caption]]:
        """Return the candidates of each image, the surest first."""
        loaded = self._ready()
        further = loaded.decoding.further
        prompts = further.prompts or (loaded.decoding.prompt,)
        each = math.ceil(wanted * further.candidates / len(prompts))
        beams = max(loaded.decoding.num_beams, each)
        candidates: list[list[Caption]] = [[] for _ in images]
        for prompt in prompts:
            decoding = replace(loaded.decoding, prompt=prompt, num_beams=beams)
            search: dict[str, Any] = {"num_return_sequences": each}
            if further.method == "sample":
                decoding = replace(decoding, num_beams=1)
                search = sampling_arguments(images, each, decoding.max_new_tokens, further)
            said = self._generate(loaded, images, decoding, **search)
            for place, caption in enumerate(said):
                candidates[place // each].append(caption)
        return [
            sorted(own, key=lambda one: one.confidence or 0, reverse=True) for own in candidates
        ]

    def _caption_batch(self, images: Sequence[Image]) -> list[Caption]:
        loaded = self._ready()
        captions = self._generate(loaded, images, loaded.decoding)
        doubtful = [row for row, caption in enumerate(captions) if caption.flags]
        if doubtful:
            retry = loaded.decoding.for_retry()
            again = self._generate(loaded, [images[row] for row in doubtful], retry)
            for row, second in zip(doubtful, again, strict=True):
                captions[row] = better(captions[row], second)
        return captions

    def _ready(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @abstractmethod
    def _load(self) -> _Loaded:
        """Read the weights."""

    @abstractmethod
    def _generate(
        self, loaded: _Loaded, images: Sequence[Image], decoding: Decoding, **search: object
    ) -> list[Caption]:
        """Caption one batch; ``search`` changes arguments of ``generate``."""


class InstructBlipCaptioner(_GeneratingCaptioner):
    """Writes captions with an ``InstructBlipForConditionalGeneration`` checkpoint.

    The constructor is cheap: weights are read by the first :meth:`caption` or :meth:`load`.

    Args:
        spec: Which checkpoint. Its precision is what is used where the device supports it:
            ``int8`` and ``bf16`` need CUDA (``int8`` also bitsandbytes, else bf16), a CPU runs
            fp32.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: Prompt and search; None takes what the checkpoint asks for in ``twolens.json``.
        precision: Exactly this precision, on any device, instead of the above.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Remember what to load; load nothing."""
        super().__init__(spec, device=device, decoding=decoding)
        self._precision = precision

    def _load(self) -> _Loaded:
        from core.devices import resolve_device

        device = resolve_device(self._device)
        precision = self._precision or supported_precision(self.spec.precision, device)
        _log.info("loading %s in %s on %s", self.spec.name, precision, device)
        model, processor = read_instructblip(self.spec, device, precision)
        return _Loaded(
            model=model,
            processor=processor,
            device=device,
            decoding=self._decoding or decoding_of(self.spec),
            suppressed=model.generation_config.suppress_tokens,
        )

    def _generate(
        self, loaded: _Loaded, images: Sequence[Image], decoding: Decoding, **search: object
    ) -> list[Caption]:
        return _generate(loaded, images, decoding, search)


class BlipCaptioner(_GeneratingCaptioner):
    """Writes captions with a ``BlipForConditionalGeneration`` checkpoint, in float32.

    A tenth of InstructBLIP's work, for hosts with no GPU. It takes no instruction; the retry
    differs by its search alone. The constructor is cheap, as above.

    Args:
        spec: Which checkpoint; one without safetensors is refused.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: Search; None takes what the checkpoint asks for in ``twolens.json``, or BLIP's
            own defaults. Prompts are not used.
    """

    def _load(self) -> _Loaded:
        from core.devices import resolve_device

        device = resolve_device(self._device)
        model, processor, folder = read_blip(self.spec)
        decoding = self._decoding or read_decoding(folder, BLIP_DECODING)
        return _Loaded(model.to(device).eval(), processor, device, decoding, None)

    def _generate(
        self, loaded: _Loaded, images: Sequence[Image], decoding: Decoding, **search: object
    ) -> list[Caption]:
        import torch

        inputs = loaded.processor(
            images=[image.convert("RGB") for image in images], return_tensors="pt"
        ).to(loaded.device)
        with torch.inference_mode():
            output = loaded.model.generate(**inputs, **{**search_arguments(decoding), **search})
        text_model = loaded.model.text_decoder
        return judged(loaded.processor, output, text_model, replace(decoding, prompt=""))


def _generate(
    loaded: _Loaded, images: Sequence[Image], decoding: Decoding, search: Mapping[str, object]
) -> list[Caption]:
    """Run one batch through the model once and judge what it says."""
    import torch

    inputs = loaded.processor(
        images=[image.convert("RGB") for image in images],
        text=[decoding.prompt] * len(images),
        return_tensors="pt",
    ).to(loaded.device)
    with torch.inference_mode():
        output = loaded.model.generate(
            **inputs, **{**search_arguments(decoding), **search}, suppress_tokens=loaded.suppressed
        )
    return judged(loaded.processor, output, loaded.model.language_model, decoding)
