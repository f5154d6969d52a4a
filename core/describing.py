"""One batch of pictures, described for both lenses: captions, their embeddings, and CLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.records import Caption, ImageRecord

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from core.images import DecodedImage
    from core.models import Captioner, ImageEncoder, TextEncoder


@dataclass(frozen=True, slots=True)
class Described:
    """What the models say of n pictures, in their order.

    Attributes:
        captions: n captions.
        caption_embeddings: float32 (n, dim), rows of unit norm.
        clip_embeddings: float32 (n, dim), rows of unit norm.
    """

    captions: tuple[Caption, ...]
    caption_embeddings: np.ndarray
    clip_embeddings: np.ndarray


@dataclass(frozen=True, slots=True)
class Describer:
    """The three models that describe a picture.

    Attributes:
        captioner: Writes the captions.
        sentence: Embeds them.
        clip: Embeds the pictures.
    """

    captioner: Captioner
    sentence: TextEncoder
    clip: ImageEncoder

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
        captions = tuple(self.captioner.caption(images) if given is None else given)
        return Described(
            captions=captions,
            caption_embeddings=self.sentence.encode_text([caption.text for caption in captions]),
            clip_embeddings=self.clip.encode_image(images),
        )


def record_of(picture: DecodedImage, file_name: str, caption: Caption) -> ImageRecord:
    """Return the record of a decoded and described picture, before its source adds to it."""
    return ImageRecord(
        id=picture.id,
        file_name=file_name,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        caption=caption.text,
        caption_flags=caption.flags,
        confidence=caption.confidence,
    )
