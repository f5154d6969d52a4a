"""What a model is to the rest of the code: a few small Protocols and a frozen description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from core.models.clip.patches import PatchRelevance
    from core.models.sentence.encoder import TokenEmbeddings
    from core.records import Caption

Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, exactly.

    Attributes:
        name: What the page and the manifest call it.
        source: Where its files are: ``hub:OWNER/NAME``, ``asset:NAME`` (a folder of ``assets/``),
            ``package:MODULE/FOLDER`` (inside an installed package) or ``path:FOLDER``.
        licence: Licence of the weights, as their authors state it.
        revision: Commit of a Hub repository; None for the other kinds, whose revision is
            computed from their content (:func:`core.models.locate.revision_of`).
        dim: Length of the embedding; None for a captioner.
        precision: Of the weights in memory, where the device supports it; of a CLIP model, those
            of its image tower, on a CPU.
        note: One sentence about the licence or the data that a reader should see, or "".
        base: The checkpoint that the files need beside them: what an adapter (LoRA) is put onto,
            or whose image tower a CLIP model uses.
        score_range: Of an encoder: the score that unrelated words and pictures or captions get,
            and the one that few good matches exceed; bars on the page run between them. None
            where that was not measured.
    """

    name: str
    source: str
    licence: str
    revision: str | None = None
    dim: int | None = None
    precision: Precision = "fp32"
    note: str = ""
    base: ModelSpec | None = None
    score_range: tuple[float, float] | None = None


@runtime_checkable
class Unloadable(Protocol):
    """A model that can give its memory back while nobody needs it."""

    spec: ModelSpec

    def unload_idle(self, seconds: float) -> bool:
        """Forget weights that were not used for so long; return whether there were any."""
        ...


class Captioner(Protocol):
    """Writes a caption for each image."""

    spec: ModelSpec

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """Caption a batch of RGB images; same length and order as ``images``."""
        ...

    def caption_several(self, images: Sequence[Image], count: int) -> list[tuple[Caption, ...]]:
        """Return each image's caption, and candidates for ``count`` - 1 others, surest first."""
        ...


class TextEncoder(Protocol):
    """Embeds texts."""

    spec: ModelSpec

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``texts``."""
        ...


class SentenceEncoder(TextEncoder, Protocol):
    """Embeds texts by the mean of their tokens' vectors."""

    def encode_tokens(self, texts: Sequence[str]) -> list[TokenEmbeddings]:
        """Return the vectors whose means :meth:`encode_text` normalises."""
        ...


class ImageEncoder(Protocol):
    """Embeds images."""

    spec: ModelSpec

    def encode_image(self, images: Sequence[Image]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``images``."""
        ...


class ImageTextEncoder(ImageEncoder, TextEncoder, Protocol):
    """Embeds images and texts in one space, its two towers loaded separately."""

    def explain(self, image: Image, texts: np.ndarray) -> PatchRelevance:
        """Return how much each patch of an image speaks for each embedded text."""
        ...
