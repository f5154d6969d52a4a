"""What transformers is told while it generates: how a caption begins, which token is drawn."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import LogitsProcessorList

    from core.models.captioner.settings import FurtherCaptions


class GivenStart:
    """Lets the captions of each image begin with tokens of its own.

    A logits processor of transformers: until those are over it leaves one token possible.

    Args:
        starts: Token ids for each image; its beams lie together.
    """

    def __init__(self, starts: Sequence[Sequence[int]]) -> None:
        """Begin at the first token."""
        self._starts = starts
        self._step = 0

    @classmethod
    def alone(cls, starts: Sequence[Sequence[int]]) -> LogitsProcessorList:
        """Return it as ``generate`` takes it."""
        from transformers import LogitsProcessorList

        return LogitsProcessorList([cls(starts)])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the score of the given token; all others become impossible."""
        import torch

        step, self._step = self._step, self._step + 1
        beams = len(scores) // len(self._starts)
        kept = scores.clone()
        for image, start in enumerate(self._starts):
            if step < len(start):
                rows = slice(image * beams, (image + 1) * beams)
                kept[rows] = -torch.inf
                kept[rows, start[step]] = scores[rows, start[step]]
        return kept


class SeededSampling:
    """Chooses each next token by chance; what falls depends on the picture, not on its batch.

    A logits processor of transformers: it leaves one token possible in each row, so that whatever
    draws after it draws that one.

    Args:
        draws: float64 (rows, steps) in [0, 1), one for each token.
        further: Its ``temperature`` and ``top_p`` are applied first.
    """

    def __init__(self, draws: np.ndarray, further: FurtherCaptions) -> None:
        """Build the warpers."""
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self._draws = draws
        self._step = 0
        self._warpers = (
            TemperatureLogitsWarper(float(further.temperature)),
            TopPLogitsWarper(further.top_p),
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the score of one token a row; all others become impossible."""
        import torch

        for warp in self._warpers:
            scores = warp(input_ids, scores)
        total = scores.float().softmax(dim=-1).cumsum(dim=-1)
        draws = torch.from_numpy(self._draws[:, self._step]).to(total)
        self._step += 1
        end = total[:, -1]
        # In float32 a draw may be rounded up to the very end, where no token is.
        places = torch.minimum(draws * end, torch.nextafter(end, torch.zeros_like(end)))
        tokens = (total <= places[:, None]).sum(dim=-1, keepdim=True)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter(-1, tokens, 0.0)


def sampling_arguments(
    images: Sequence[Image], each: int, steps: int, further: FurtherCaptions
) -> dict[str, Any]:
    """Return what makes ``generate`` sample ``each`` captions of each image.

    Args:
        images: RGB images.
        each: Captions an image.
        steps: Most tokens of a caption.
        further: How tokens are drawn.
    """
    from transformers import LogitsProcessorList

    draws = [
        np.random.default_rng((further.seed, zlib.crc32(image.tobytes()), number)).random(steps + 1)
        for image in images
        for number in range(each)
    ]
    return {
        "do_sample": True,
        "num_beams": 1,
        "num_return_sequences": each,
        # The processor below did this already.
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "logits_processor": LogitsProcessorList([SeededSampling(np.stack(draws), further)]),
    }
