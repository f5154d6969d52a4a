"""From a decoding to what ``generate`` is asked for, and from its tokens to captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.models.captioner.caption_text import caption_flags, clean_caption
from core.models.captioner.settings import Decoding
from core.records import Caption
from core.text import words_of


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
