"""Models on a GPU that is rented by the batch: for how long, and what may go wrong with it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.errors import UploadError
from core.models.captioner.instructblip import InstructBlipCaptioner

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from core.models.matcher import ImageTextMatcher
    from core.records import Caption

logger = logging.getLogger(__name__)

RENTED_BATCH = 32
"""Photos a rental, so that starting one is a small part of it."""

FIRST_SECONDS_AN_IMAGE = 1.0
"""Until the first batch has been measured."""
_START_S = 15.0
_LONGEST_S = 120.0
_MARGIN = 1.5
"""A task that takes longer than was asked for is stopped."""

_KEPT = "What is described stays, and the other photos wait"
_AS_THEY_ARE = "The pictures stay in CLIP’s order"
_RERANK_S = 20.0


class RentedCaptioner:
    """Runs another captioner on a ZeroGPU Space: a GPU is rented for each batch, and given back.

    Its weights are loaded beforehand: what is loaded inside a rental is lost with it. The time
    that is asked for follows what photos took before.

    Args:
        captioner: What writes the captions.
        rent: ``spaces.GPU``.
    """

    def __init__(self, captioner: InstructBlipCaptioner, rent: Callable[..., Any]) -> None:
        """Load the weights and wrap the captioner."""
        self.spec = captioner.spec
        captioner.load()

        def timed(
            images: Sequence[Image], captions: int | None
        ) -> tuple[list[Caption] | list[tuple[Caption, ...]], float]:
            started = time.perf_counter()
            if captions is None:
                return captioner.caption(images), time.perf_counter() - started
            return captioner.caption_several(images, captions), time.perf_counter() - started

        def duration(images: Sequence[Image], captions: int | None) -> float:
            return self.rented_seconds(len(images), captions or 1)

        self._rented = rent(duration=duration)(timed)
        self._seconds_an_image: float | None = None

    def rented_seconds(self, images: int, captions: int = 1) -> float:
        """Return for how long a GPU is rented to caption one batch.

        Args:
            images: Its size.
            captions: Captions an image.
        """
        each = FIRST_SECONDS_AN_IMAGE
        if self._seconds_an_image is not None:
            each = _MARGIN * self._seconds_an_image
        return min(_LONGEST_S, _START_S + each * images * captions)

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """Caption a batch of RGB images; same length and order as ``images``.

        Raises:
            UploadError: No GPU could be had, or it was taken away.
        """
        return self._run(images, None)

    def caption_several(self, images: Sequence[Image], count: int) -> list[tuple[Caption, ...]]:
        """Return each image's caption, and candidates for ``count`` - 1 others, surest first.

        Raises:
            UploadError: As :meth:`caption`.
        """
        return self._run(images, count)

    def _run(self, images: Sequence[Image], captions: int | None) -> Any:  # noqa: ANN401
        with _told_in_a_sentence():
            described, seconds = self._rented(images, captions)
        measured = seconds / max(1, len(images) * (captions or 1))
        before = self._seconds_an_image or measured
        # A slow batch counts at once, a quick one by and by: too short a rental loses a batch.
        self._seconds_an_image = max(measured, (before + measured) / 2)
        return described


class RentedMatcher:
    """Reranks on a ZeroGPU Space: a GPU is rented for each reranking, and given back.

    Args:
        matcher: What scores the pictures.
        rent: ``spaces.GPU``.
    """

    def __init__(self, matcher: ImageTextMatcher, rent: Callable[..., Any]) -> None:
        """Load the weights and wrap the model."""
        self.spec = matcher.spec
        matcher.load()

        def matched(images: Sequence[Image], query: str) -> np.ndarray:
            return matcher.match(images, query)

        self._rented = rent(duration=_RERANK_S)(matched)

    def match(self, images: Sequence[Image], query: str) -> np.ndarray:
        """Return for each RGB image how well a query fits it: float32 (n,), 0 is undecided.

        Raises:
            UploadError: No GPU could be had, or it was taken away.
        """
        with _told_in_a_sentence(_AS_THEY_ARE):
            found: np.ndarray = self._rented(images, query)
        return found


@contextmanager
def _told_in_a_sentence(kept: str = _KEPT) -> Iterator[None]:
    """Turn what the package ``spaces`` raises into one sentence for the visitor.

    Its errors are gradio's, which this room does not import; they are known by their titles.

    Args:
        kept: What a visitor has all the same, without a full stop.
    """
    try:
        yield
    except Exception as error:
        title = str(getattr(error, "title", ""))
        sentence = _sentence(title, str(getattr(error, "message", error)), kept)
        if sentence is None:
            raise
        logger.warning("nothing from a rented GPU: %s: %s", title, error)
        raise UploadError(sentence) from error


def _sentence(title: str, message: str, kept: str) -> str | None:
    if title == "ZeroGPU quota exceeded" and "No GPU was available" not in message:
        wait = re.search(r"Try again in ([\d:]+(?: day[s,]* [\d:]+)?)", message)
        again = f"try again in {wait[1]}" if wait else "try again tomorrow"
        return (
            f"The GPU time that Hugging Face gives you a day is used up. {kept}: {again}, or sign "
            "in to Hugging Face for more."
        )
    if title == "ZeroGPU worker error":
        return f"The GPU was lost before these photos were done. {kept}: press the button again."
    if title.startswith("ZeroGPU") or "ZeroGPU API" in message:
        return f"No GPU is free at the moment. {kept}: try again in a minute."
    return None
