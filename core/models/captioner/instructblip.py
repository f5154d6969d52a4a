"""InstructBLIP and BLIP as captioners; the first in 8 bits, bfloat16 or float32."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from core.models.captioner.generation import Written, better, judged, search_arguments, unlike
from core.models.captioner.loading import (
    decoding_of,
    read_blip,
    read_instructblip,
    supported_precision,
)
from core.models.captioner.rerank import Sight, best_said, read_sight, said_together
from core.models.captioner.sampling import sampling_arguments
from core.models.captioner.settings import Decoding, read_decoding
from core.models.spec import ModelSpec, Precision, TextEncoder
from core.records import Caption

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
    sight: Sight | None = None


@dataclass(frozen=True, slots=True)
class _Looked:
    """What came of looking at one image.

    Attributes:
        caption: The one that is chosen.
        others: The undoubted candidates beside it, the likeliest first.
        seen: Where the image's captions should lie, float32 (dim,); None without a sight.
    """

    caption: Caption
    others: tuple[Caption, ...] = ()
    seen: np.ndarray | None = None


class _GeneratingCaptioner(ABC):
    """What captioners that generate token by token have in common: loading once, and one retry."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        sentence: TextEncoder | None = None,
    ) -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._decoding = decoding
        self._sentence = sentence
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
        return [one.caption for batch in _batches(images) for one in self._look(batch, {})]

    def caption_several(self, images: Sequence[Image], count: int) -> list[tuple[Caption, ...]]:
        """Write several captions of each RGB image, in order.

        Returns:
            For each image the caption of :meth:`caption`, then candidates for ``count`` - 1 more
            (``FurtherCaptions``), the surest ones first; with a sight, those alone that bring the
            mean of all nearer to what was seen, by how much they do. None of
            them is doubtful, and no two of an image have the same words. They may be fewer, or
            more.
        """
        if count <= 1:
            return [(caption,) for caption in self.caption(images)]
        found: list[tuple[Caption, ...]] = []
        for batch in _batches(images):
            known: dict[str, np.ndarray] = {}
            looked = self._look(batch, known)
            further = self._further(batch, count - 1)
            for one, more in zip(looked, further, strict=True):
                captions = unlike((one.caption, *one.others, *more))
                if one.seen is not None:
                    embeddings = self._embedded(captions, known)
                    order = said_together(embeddings, one.seen, first=0)
                    captions = tuple(captions[place] for place in order)
                found.append(captions)
        return found

    def _look(self, images: Sequence[Image], known: dict[str, np.ndarray]) -> list[_Looked]:
        """Caption one batch, the doubtful ones of it twice.

        Args:
            images: The batch.
            known: Embeddings of texts, added to.
        """
        loaded = self._ready()
        looked = self._first(loaded, images, loaded.decoding, known)
        doubtful = [row for row, one in enumerate(looked) if one.caption.flags]
        if doubtful:
            retry = loaded.decoding.for_retry()
            again = self._first(loaded, [images[row] for row in doubtful], retry, known)
            for row, second in zip(doubtful, again, strict=True):
                chosen = better(looked[row].caption, second.caption)
                looked[row] = replace(second, caption=chosen)
        return looked

    def _first(
        self,
        loaded: _Loaded,
        images: Sequence[Image],
        decoding: Decoding,
        known: dict[str, np.ndarray],
    ) -> list[_Looked]:
        """Search once, and choose among what was found if the captioner has a sight."""
        if loaded.sight is None:
            return [_Looked(one.caption) for one in self._generate(loaded, images, decoding)[0]]
        each = decoding.candidates
        wide = replace(decoding, num_beams=max(decoding.num_beams, each))
        written, tokens = self._generate(loaded, images, wide, num_return_sequences=each)
        seen = loaded.sight(tokens)
        groups = [written[start : start + each] for start in range(0, len(written), each)]
        clear = [[one for one in own if not one.caption.flags] or own[:1] for own in groups]
        embeddings = self._embedded([one.caption for own in clear for one in own], known)
        looked = []
        for own, aim in zip(clear, seen, strict=True):
            rows, embeddings = embeddings[: len(own)], embeddings[len(own) :]
            chosen = best_said(rows, [one.surprise for one in own], aim, decoding.sight_weight)
            others = tuple(
                one.caption
                for place, one in enumerate(own)
                if place != chosen and not one.caption.flags
            )
            looked.append(_Looked(own[chosen].caption, others, aim))
        return looked

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
            written, _ = self._generate(loaded, images, decoding, **search)
            for place, one in enumerate(written):
                candidates[place // each].append(one.caption)
        return [
            sorted(own, key=lambda one: one.confidence or 0, reverse=True) for own in candidates
        ]

    def _embedded(self, captions: Sequence[Caption], known: dict[str, np.ndarray]) -> np.ndarray:
        """Embed captions for the sight, each text once."""
        assert self._sentence is not None  # else there would be no sight
        new = [text for text in dict.fromkeys(one.text for one in captions) if text not in known]
        if new:
            known.update(zip(new, self._sentence.encode_text(new), strict=True))
        return np.stack([known[one.text] for one in captions])

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
    ) -> tuple[list[Written], np.ndarray]:
        """Caption one batch; ``search`` changes arguments of ``generate``.

        Returns:
            The captions, those of an image together, and each image's class token, float32
            (images, width): of width 0 for a captioner that cannot have a sight.
        """


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
        sentence: Embeds captions, so that a checkpoint with a sight can choose among its
            own; None takes the likeliest one.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        precision: Precision | None = None,
        sentence: TextEncoder | None = None,
    ) -> None:
        """Remember what to load; load nothing."""
        super().__init__(spec, device=device, decoding=decoding, sentence=sentence)
        self._precision = precision

    def class_tokens(self, images: Sequence[Image]) -> np.ndarray:
        """Return what the image tower says of each RGB image as a whole, float32 (n, width)."""
        import torch

        loaded = self._ready()
        tokens = []
        with torch.inference_mode():
            for batch in _batches(images):
                inputs = loaded.processor.image_processor(
                    [image.convert("RGB") for image in batch], return_tensors="pt"
                ).to(loaded.device)
                tokens.append(_class_token(loaded.model.vision_model(**inputs)))
        return np.concatenate(tokens)

    def _load(self) -> _Loaded:
        from core.models.devices import resolve_device

        device = resolve_device(self._device)
        precision = self._precision or supported_precision(self.spec.precision, device)
        _log.info("loading %s in %s on %s", self.spec.name, precision, device)
        model, processor = read_instructblip(self.spec, device, precision)
        sight = read_sight(self.spec, self._sentence.spec) if self._sentence else None
        if sight is not None:
            sight.require_width(model.config.vision_config.hidden_size)
        return _Loaded(
            model=model,
            processor=processor,
            device=device,
            decoding=self._decoding or decoding_of(self.spec),
            suppressed=model.generation_config.suppress_tokens,
            sight=sight,
        )

    def _generate(
        self, loaded: _Loaded, images: Sequence[Image], decoding: Decoding, **search: object
    ) -> tuple[list[Written], np.ndarray]:
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
        from core.models.devices import resolve_device

        device = resolve_device(self._device)
        model, processor, folder = read_blip(self.spec)
        decoding = self._decoding or read_decoding(folder, BLIP_DECODING)
        return _Loaded(model.to(device).eval(), processor, device, decoding, None)

    def _generate(
        self, loaded: _Loaded, images: Sequence[Image], decoding: Decoding, **search: object
    ) -> tuple[list[Written], np.ndarray]:
        import torch

        inputs = loaded.processor(
            images=[image.convert("RGB") for image in images], return_tensors="pt"
        ).to(loaded.device)
        with torch.inference_mode():
            output = loaded.model.generate(**inputs, **{**search_arguments(decoding), **search})
        text_model = loaded.model.text_decoder
        blank = replace(decoding, prompt="")
        none = np.empty((len(images), 0), dtype=np.float32)
        return judged(loaded.processor, output, text_model, blank), none


def _generate(
    loaded: _Loaded, images: Sequence[Image], decoding: Decoding, search: Mapping[str, object]
) -> tuple[list[Written], np.ndarray]:
    """Run one batch through the model once and judge what it says."""
    import torch

    inputs = loaded.processor(
        images=[image.convert("RGB") for image in images],
        text=[decoding.prompt] * len(images),
        return_tensors="pt",
    ).to(loaded.device)
    seen: list[np.ndarray] = []
    watch = loaded.model.vision_model.register_forward_hook(
        lambda _, __, output: seen.append(_class_token(output))
    )
    try:
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs,
                **{**search_arguments(decoding), **search},
                suppress_tokens=loaded.suppressed,
            )
    finally:
        watch.remove()
    written = judged(loaded.processor, output, loaded.model.language_model, decoding)
    return written, seen[0]


def _class_token(output: Any) -> np.ndarray:  # noqa: ANN401 - transformers' own
    token: np.ndarray = output.last_hidden_state[:, 0].float().cpu().numpy()
    return token


def _batches(images: Sequence[Image]) -> Iterator[Sequence[Image]]:
    for start in range(0, len(images), _LARGEST_BATCH):
        yield images[start : start + _LARGEST_BATCH]
