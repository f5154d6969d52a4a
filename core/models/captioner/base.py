"""What captioners that generate token by token share: one load, one retry, reranking."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from core.models.captioner.decoding import (
    GivenStart,
    Written,
    better,
    distinct_captions,
    judged,
    sampling_arguments,
    search_arguments,
)
from core.models.captioner.encoded_images import EncodedImages
from core.models.captioner.naming import Namer
from core.models.captioner.rerank import RerankProbe, best_caption, select_captions
from core.models.captioner.settings import Decoding
from core.models.encoding import Once
from core.models.spec import ModelSpec, TextEncoder
from core.models.views import View
from core.records import Caption, SeenCaption

if TYPE_CHECKING:
    from PIL.Image import Image

_WORDINESS = 0.08
"""What a word costs after a given start, in the units of a caption's nll: of a thing that the
captioner does not know, the less it adds the less of it is wrong."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A captioner in memory.

    Attributes:
        model: The transformers model, in eval mode.
        processor: The checkpoint's.
        device: Where the model is.
        decoding: Prompt and search.
        suppressed: Token ids that are never generated.
        probe: Reranks candidate captions; None takes the likeliest one.
        namer: Knows things that captions can begin with; None lets them begin as they like.
        tokenizing: Held while a tokenizer works: a fast one fails with "Already borrowed" when
            two threads use it at once.
        prompts: Tokens of the prompts that were asked, each (1, length).
    """

    model: Any
    processor: Any
    device: str
    decoding: Decoding
    suppressed: list[int] | None = None
    probe: RerankProbe | None = None
    namer: Namer | None = None
    tokenizing: Lock = field(default_factory=Lock)
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Described:
    """What was written of one image.

    Attributes:
        caption: The one that is chosen.
        others: The undoubted candidates beside it, the likeliest first.
        predicted: Where its captions should lie, float32 (dim,); None without a probe.
        shares: What the namer sees in it, float64 (names + 1,); None without a namer.
    """

    caption: Caption
    others: tuple[Caption, ...] = ()
    predicted: np.ndarray | None = None
    shares: np.ndarray | None = None

    def seen(self, namer: Namer | None, captions: Sequence[Caption]) -> tuple[Caption, ...]:
        """Return captions of it that know how likely the things are that they mention."""
        if namer is None or self.shares is None:
            return tuple(captions)
        return tuple(
            SeenCaption(one.text, one.flags, one.confidence, namer.seen(self.shares, one.text))
            for one in captions
        )


class GeneratingCaptioner(ABC):
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
        self._model = Once(self._load)

    def load(self) -> Loaded:
        """Return the model, read unless that was done; safe to call from several threads.

        Raises:
            ModelNotFoundError: The checkpoint is not on this machine, nor reachable.
            MissingDependencyError: 8 bits were demanded and bitsandbytes is not installed.
            ModelError: The checkpoint is damaged, or its parts do not belong together.
        """
        return self._model.get()

    def unload_idle(self, seconds: float) -> bool:
        """Forget weights that were not used for so long; return whether there were any."""
        return self._model.drop_if_idle(seconds)

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """Caption RGB images, in order; a doubtful caption is decoded once more, differently.

        All of them are in memory as tensors at once.

        Returns:
            One caption an image. Its text is empty only under the flag ``empty``; ``retried``
            says that the first attempt was doubtful. The confidence is the mean probability that
            the model itself, before any penalty or constraint of the search, gave the generated
            tokens, the end token among them.
        """
        if not images:
            return []
        loaded = self.load()
        described = self._describe(loaded, images, self._encode(loaded, images), {})
        return [caption for one in described for caption in one.seen(loaded.namer, [one.caption])]

    def caption_several(self, images: Sequence[Image], count: int) -> list[tuple[Caption, ...]]:
        """Write several captions of each RGB image, in order.

        Returns:
            For each image the caption of :meth:`caption`, then candidates for ``count`` - 1 more
            (``FurtherCaptions``), the surest ones first; with a probe, those alone that bring the
            mean of all nearer to what the probe predicts, by how much they do. None of
            them is doubtful, and no two of an image have the same words. They may be fewer, or
            more.
        """
        if count <= 1:
            return [(caption,) for caption in self.caption(images)]
        if not images:
            return []
        loaded = self.load()
        found: list[tuple[Caption, ...]] = []
        known: dict[str, np.ndarray] = {}
        encoded = self._encode(loaded, images)
        described = self._describe(loaded, images, encoded, known)
        further = self._further(loaded, encoded, images, count - 1)
        for one, more in zip(described, further, strict=True):
            captions = distinct_captions((one.caption, *one.others, *more))
            if one.predicted is not None:
                embeddings = self._embedded(captions, known)
                order = select_captions(embeddings, one.predicted, first=0)
                captions = tuple(captions[place] for place in order)
            found.append(one.seen(loaded.namer, captions))
        return found

    def _describe(
        self,
        loaded: Loaded,
        images: Sequence[Image],
        encoded: EncodedImages,
        known: dict[str, np.ndarray],
    ) -> list[_Described]:
        """Caption one batch; what is doubtful, or does not name what the photo shows, twice.

        Args:
            loaded: The model.
            images: The batch.
            encoded: The same after the image tower.
            known: Embeddings of texts, added to.
        """
        described = self._first(loaded, encoded, loaded.decoding, known)
        doubtful = [row for row, one in enumerate(described) if one.caption.flags]
        if doubtful:
            retry = loaded.decoding.for_retry()
            again = self._first(loaded, encoded.take(doubtful), retry, known)
            for row, second in zip(doubtful, again, strict=True):
                chosen = better(described[row].caption, second.caption)
                described[row] = replace(second, caption=chosen)
        if loaded.namer is not None:
            views = loaded.decoding.views
            shares = loaded.namer.shares(loaded.namer.features(_seen(images, views)))
            shares = shares.reshape(-1, len(views), shares.shape[1]).mean(axis=1)
            missed = loaded.namer.missed(shares, [one.caption.text for one in described])
            if missed:
                starts = [sighting.name.phrase for sighting in missed.values()]
                rows = encoded.take(list(missed))
                named = self._first(loaded, rows, loaded.decoding, known, starts)
                for (row, sighting), second in zip(missed.items(), named, strict=True):
                    first = described[row]
                    if not second.caption.flags and sighting.outweighs(
                        first.caption.text,
                        self._nearness(second, known) - self._nearness(first, known),
                    ):
                        described[row] = replace(second, others=(*second.others, *first.others))
            seen = zip(described, shares, strict=True)
            described = [replace(one, shares=own) for one, own in seen]
        return described

    def _nearness(self, one: _Described, known: dict[str, np.ndarray]) -> float:
        """Return the cosine of a caption to what was predicted; 0 without a prediction."""
        if one.predicted is None:
            return 0.0
        return float(self._embedded([one.caption], known)[0] @ one.predicted)

    def _first(
        self,
        loaded: Loaded,
        encoded: EncodedImages,
        decoding: Decoding,
        known: dict[str, np.ndarray],
        starts: Sequence[str] = (),
    ) -> list[_Described]:
        """Search once, and choose among what was found if the captioner has a probe.

        Args:
            loaded: The model.
            encoded: The batch.
            decoding: Prompt and search.
            known: Embeddings of texts, added to.
            starts: How each image's captions begin; none lets them begin as they like.
        """
        search: dict[str, Any] = {}
        if starts:
            with loaded.tokenizing:
                given = loaded.processor.tokenizer(list(starts), add_special_tokens=False)
            search["given"] = given["input_ids"]
        if loaded.probe is None:
            written = self._written(loaded, encoded, decoding, **search)
            return [_Described(one.caption) for one in written]
        each = decoding.candidates
        wide = replace(decoding, num_beams=max(decoding.num_beams, each))
        written = self._written(loaded, encoded, wide, num_return_sequences=each, **search)
        predicted = loaded.probe(encoded.class_tokens())
        groups = [written[start : start + each] for start in range(0, len(written), each)]
        clear = [[one for one in own if not one.caption.flags] or own[:1] for own in groups]
        embeddings = self._embedded([one.caption for own in clear for one in own], known)
        described = []
        for own, target in zip(clear, predicted, strict=True):
            rows, embeddings = embeddings[: len(own)], embeddings[len(own) :]
            nll = [one.nll for one in own]
            if starts:
                nll = [one.nll + _WORDINESS * len(one.caption.text.split()) for one in own]
            chosen = best_caption(rows, nll, target, decoding.rerank_weight)
            others = tuple(
                one.caption
                for place, one in enumerate(own)
                if place != chosen and not one.caption.flags
            )
            described.append(_Described(own[chosen].caption, others, target))
        return described

    def _further(
        self, loaded: Loaded, encoded: EncodedImages, images: Sequence[Image], count: int
    ) -> list[list[Caption]]:
        """Return the candidates of each image, the surest first."""
        further = loaded.decoding.further
        prompts = further.prompts or (loaded.decoding.prompt,)
        each = math.ceil(count * further.candidates / len(prompts))
        beams = max(loaded.decoding.num_beams, each)
        candidates: list[list[Caption]] = [[] for _ in images]
        for prompt in prompts:
            decoding = replace(loaded.decoding, prompt=prompt, num_beams=beams)
            search: dict[str, Any] = {"num_return_sequences": each}
            if further.method == "sample":
                decoding = replace(decoding, num_beams=1)
                search = sampling_arguments(images, each, decoding.max_new_tokens, further)
            written = self._written(loaded, encoded, decoding, **search)
            for place, one in enumerate(written):
                candidates[place // each].append(one.caption)
        return [
            sorted(own, key=lambda one: one.confidence or 0, reverse=True) for own in candidates
        ]

    def _embedded(self, captions: Sequence[Caption], known: dict[str, np.ndarray]) -> np.ndarray:
        """Embed captions for the probe, each text once."""
        assert self._sentence is not None  # else there would be no probe
        new = [text for text in dict.fromkeys(one.text for one in captions) if text not in known]
        if new:
            known.update(zip(new, self._sentence.encode_text(new), strict=True))
        return np.stack([known[one.text] for one in captions])

    @abstractmethod
    def _load(self) -> Loaded:
        """Read the weights."""

    def _encode(self, loaded: Loaded, images: Sequence[Image]) -> EncodedImages:
        """Run the image tower over one batch of RGB images, once."""
        import torch

        views = loaded.decoding.views
        pixels = loaded.processor.image_processor(_seen(images, views), return_tensors="pt").to(
            loaded.device
        )["pixel_values"]
        with torch.inference_mode():
            output = loaded.model.vision_model(pixel_values=pixels)
        by_image = (-1, len(views))
        return EncodedImages(
            pixels.unflatten(0, by_image)[:, 0], output.last_hidden_state.unflatten(0, by_image)
        )

    def _written(
        self,
        loaded: Loaded,
        encoded: EncodedImages,
        decoding: Decoding,
        *,
        given: Sequence[Sequence[int]] = (),
        **search: object,
    ) -> list[Written]:
        """Generate captions of one batch, those of an image together.

        Args:
            loaded: The model.
            encoded: The batch.
            decoding: Prompt and search.
            given: Token ids that the captions of each image begin with; none if empty.
            search: Changes arguments of ``generate``.
        """
        import torch

        if given:
            search["logits_processor"] = GivenStart.alone(given)

        with torch.inference_mode():
            output = encoded.in_place_of_tower(loaded.model).generate(
                pixel_values=encoded.pixels,
                **self._prompt(loaded, decoding.prompt, len(encoded.pixels)),
                **{**search_arguments(decoding), **search},
            )
        with loaded.tokenizing:
            model = self._text_model(loaded)
            return judged(loaded.processor, output, model, decoding, [len(ids) for ids in given])

    @abstractmethod
    def _prompt(self, loaded: Loaded, prompt: str, count: int) -> dict[str, Any]:
        """Return what ``generate`` is given beside pixels for ``count`` images."""

    @abstractmethod
    def _text_model(self, loaded: Loaded) -> Any:  # noqa: ANN401 - transformers' own
        """Return the part of the model that generates."""


def _seen(images: Sequence[Image], views: Sequence[View]) -> list[Image]:
    """Return the views of images in RGB, those of an image together."""
    in_rgb = (image if image.mode == "RGB" else image.convert("RGB") for image in images)
    return [view.of(image) for image in in_rgb for view in views]
