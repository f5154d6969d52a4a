"""One batch of pictures, described for both lenses: captions, their embeddings, and CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from core.activity import captioned
from core.gallery.caption_rows import distinct
from core.models.captioner.unsure import read_unsure_rule, with_doubts
from core.records import Caption, ImageRecord

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.images.decode import DecodedImage
    from core.models.spec import Captioner, ImageTextEncoder, TextEncoder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Described:
    """What the models say of n pictures, in their order.

    Attributes:
        captions: For each picture, one caption or more.
        caption_embeddings: float32 (captions, dim), rows of unit norm, in that order.
        clip_embeddings: float32 (n, dim), rows of unit norm.
    """

    captions: tuple[tuple[Caption, ...], ...]
    caption_embeddings: np.ndarray
    clip_embeddings: np.ndarray


@dataclass(frozen=True, slots=True)
class Describer:
    """The three models that describe a picture.

    Attributes:
        captioner: Writes the captions.
        sentence: Embeds them.
        clip: Embeds the pictures, and says which captions hardly fit theirs.
        captions_per_image: Most captions of a picture; near-duplicates are dropped.
        least_batch: Batches of fewer are filled up for the encoders, so that no embedding depends
            on how many are made at once: libraries round products of few rows otherwise.
    """

    captioner: Captioner
    sentence: TextEncoder
    clip: ImageTextEncoder
    captions_per_image: int = 1
    least_batch: int = 1

    def describe(
        self, images: Sequence[Image], given: Sequence[Caption] | None = None
    ) -> Described:
        """Caption and embed RGB pictures.

        Args:
            images: n pictures.
            given: n captions to embed in place of the captioner's, which is then not loaded.

        Raises:
            ModelError: One of the models cannot be loaded.
        """
        captions, embeddings = self._captions(images, given)
        clip_embeddings = self._filled(self.clip.encode_image, images)
        if given is None:
            captions = self._with_doubts(captions, clip_embeddings)
        return Described(captions, embeddings, clip_embeddings)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of captions, float32 (n, dim), as :meth:`describe` makes them."""
        return self._filled(self.sentence.encode_text, texts)

    def _filled(
        self, encode: Callable[[Sequence[T]], np.ndarray], items: Sequence[T]
    ) -> np.ndarray:
        missing = self.least_batch - len(items)
        if missing <= 0 or not items:
            return encode(items)
        return encode([*items, *[items[-1]] * missing])[: len(items)]

    def _with_doubts(
        self, captions: tuple[tuple[Caption, ...], ...], clip_embeddings: np.ndarray
    ) -> tuple[tuple[Caption, ...], ...]:
        rule = read_unsure_rule(self.captioner.spec, self.clip.spec)
        if rule is None:
            return tuple(tuple(caption.plain() for caption in own) for own in captions)
        counts = [len(own) for own in captions]
        flat = [caption for own in captions for caption in own]
        judged = iter(with_doubts(flat, clip_embeddings.repeat(counts, axis=0), self.clip, rule))
        return tuple(tuple(islice(judged, count)) for count in counts)

    def _captions(
        self, images: Sequence[Image], given: Sequence[Caption] | None
    ) -> tuple[tuple[tuple[Caption, ...], ...], np.ndarray]:
        if given is not None or self.captions_per_image == 1:
            single = self.captioner.caption(images) if given is None else given
            captioned(self.captioner.spec.name, 0 if given is not None else len(single))
            texts = [caption.text for caption in single]
            return tuple((caption,) for caption in single), self.embed_texts(texts)
        found = self.captioner.caption_several(images, self.captions_per_image)
        captioned(self.captioner.spec.name, sum(map(len, found)))
        embedded = self.embed_texts([one.text for group in found for one in group])
        chosen, parts = [], []
        for group in found:
            own, embedded = embedded[: len(group)], embedded[len(group) :]
            kept = distinct(own, self.captions_per_image)
            chosen.append(tuple(group[place] for place in kept))
            parts.append(own[kept])
        return tuple(chosen), np.concatenate([embedded, *parts])


def record_of(picture: DecodedImage, file_name: str, captions: tuple[Caption, ...]) -> ImageRecord:
    """Return the record of a decoded and described picture, before its source adds to it."""
    first, *more = captions
    return ImageRecord(
        id=picture.id,
        file_name=file_name,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        caption=first.text,
        caption_flags=first.flags,
        confidence=first.confidence,
        more_captions=tuple(more),
    )
