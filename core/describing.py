"""One batch of pictures, described for both lenses: captions, their embeddings, and CLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from core.models import Captioner, ImageEncoder, TextEncoder
    from core.records import Caption


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

    def describe(self, images: Sequence[Image]) -> Described:
        """Caption and embed RGB pictures.

        Raises:
            ModelError: One of the models cannot be loaded.
        """
        captions = tuple(self.captioner.caption(images))
        return Described(
            captions=captions,
            caption_embeddings=self.sentence.encode_text([caption.text for caption in captions]),
            clip_embeddings=self.clip.encode_image(images),
        )
