"""What ``generate`` is asked for, how its tokens are chosen, and captions from its tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.models.captioner.caption_text import caption_flags, clean_caption
from core.models.captioner.settings import Decoding
from core.records import Caption
from core.text import words_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import LogitsProcessorList

    from core.models.captioner.settings import FurtherCaptions


@dataclass(frozen=True, slots=True)
class Written:
    """A caption as it came from the model.

    Attributes:
        caption: With its flags and confidence.
        nll: Mean negative log-likelihood of its tokens, without those that were given.
    """

    caption: Caption
    nll: float


def search_arguments(decoding: Decoding) -> dict[str, Any]:
    """Return the arguments of ``generate`` that every captioner uses."""
    return {
        "do_sample": False,
        "num_beams": decoding.num_beams,
        "min_new_tokens": decoding.min_new_tokens,
        "max_new_tokens": decoding.max_new_tokens,
        "repetition_penalty": decoding.repetition_penalty,
        "length_penalty": decoding.length_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "return_dict_in_generate": True,
        "output_logits": True,
    }


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


def judged(
    processor: Any,  # noqa: ANN401 - transformers' own
    output: Any,  # noqa: ANN401 - one of its several classes
    text_model: Any,  # noqa: ANN401 - any language model
    decoding: Decoding,
    given: Sequence[int] = (),
) -> list[Written]:
    """Turn generated tokens into captions with their flags, confidence and likelihood.

    Args:
        processor: The checkpoint's.
        output: What ``generate`` returned for :func:`search_arguments`.
        text_model: The part of the model that generated.
        decoding: What was asked for.
        given: For each image, how many tokens its captions were made to begin with; none if empty.
    """
    import torch

    beams = getattr(output, "beam_indices", None)
    with torch.inference_mode():
        scores = text_model.compute_transition_scores(
            output.sequences,
            # The logits are the model's; the scores hold the search's penalties, or the draws.
            output.logits,
            beams,
            normalize_logits=True,
        )
    # A decoder-only language model returns the prompt too; only the tail was generated.
    tokens = output.sequences[:, -scores.shape[1] :]
    generated = tokens != processor.tokenizer.pad_token_id
    if beams is not None:  # a beam search may fill up with end tokens instead
        generated &= beams[:, : tokens.shape[1]] >= 0
    lengths = generated.sum(dim=1).clamp(min=1)
    own = generated.clone()
    each = len(own) // len(given) if given else 0
    for image, count in enumerate(given):
        own[image * each : (image + 1) * each, :count] = False
    scores = scores.float()
    confidences = scores.exp().masked_fill(~generated, 0.0).sum(dim=1) / lengths
    nlls = -scores.masked_fill(~own, 0.0).sum(dim=1) / own.sum(dim=1).clamp(min=1)
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    written = []
    for text, sure, nll in zip(texts, confidences.tolist(), nlls.tolist(), strict=True):
        cleaned = clean_caption(text)
        flags = caption_flags(cleaned, decoding.prompt)
        written.append(Written(Caption("" if "empty" in flags else cleaned, flags, sure), nll))
    return written


def distinct_captions(captions: Sequence[Caption]) -> tuple[Caption, ...]:
    """Keep the first caption, and each that is neither doubtful nor has an earlier one's words."""
    kept = {words_of(captions[0].text): captions[0]}
    for caption in captions[1:]:
        if not caption.flags:
            kept.setdefault(words_of(caption.text), caption)
    return tuple(kept.values())


def better(first: Caption, second: Caption) -> Caption:
    """Prefer the second attempt unless it is the worse one; either way it is marked."""

    def doubts(caption: Caption) -> tuple[bool, int]:
        return "empty" in caption.flags, len(caption.flags)

    chosen = second if doubts(second) <= doubts(first) else first
    return Caption(chosen.text, (*chosen.flags, "retried"), chosen.confidence)
