"""How a captioner is asked and how it searches: the settings, and their file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from core.errors import ModelError
from core.models.views import VIEWS_NAME, WHOLE, View, views_of

DECODING_FILE = "twolens.json"
"""Beside a checkpoint: ``{"decoding": {...}}`` with the fields of :class:`Decoding`."""


@dataclass(frozen=True, slots=True)
class FurtherCaptions:
    """How an image's captions beyond the first are found.

    Attributes:
        method: ``sample`` draws each token by chance, from a seed that the image's pixels decide;
            ``beams`` takes the best few of one wide beam search.
        prompts: Instructions, which share the captions between them; none stands for the first
            caption's.
        candidates: Captions generated for each that is wanted, of which the surest are kept: some
            will be doubtful, or say the same as another.
        temperature: What the scores are divided by before a token is drawn.
        top_p: Only the likeliest tokens that together have this probability are drawn from.
        seed: Another one draws other captions.
    """

    method: Literal["sample", "beams"] = "sample"
    prompts: tuple[str, ...] = ()
    candidates: float = 1.5
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no search can honour."""
        if self.method not in ("sample", "beams"):
            raise ModelError(f"Further captions come by sample or beams, not {self.method!r}.")
        if not (self.candidates >= 1 and self.temperature > 0 and 0 < self.top_p <= 1):
            raise ModelError(
                f"Further captions with {self.candidates} candidates, temperature "
                f"{self.temperature} and top-p {self.top_p} are not possible."
            )


@dataclass(frozen=True, slots=True)
class Decoding:
    """Prompt and search over tokens. The defaults are InstructBLIP's authors' for captions.

    Attributes:
        prompt: Instruction given to the Q-Former and to the language model.
        retry_prompt: Instruction of the second attempt at a flagged caption.
        num_beams: Width of the beam search; 1 is greedy.
        min_new_tokens: Fewest tokens generated before the end token is allowed.
        max_new_tokens: Most tokens generated.
        repetition_penalty: Factor on the score of a token that has been generated; 1 is none.
        length_penalty: Exponent of the length that a beam's score is divided by.
        no_repeat_ngram_size: n-grams of this many tokens occur at most once; 0 allows all.
        candidates: Captions among which a captioner with a probe (:mod:`.rerank`) chooses; its
            search has as many beams. Without a probe the likeliest caption is taken.
        rerank_weight: How much the probe counts beside how likely a caption is.
        image_views: Boxes of the views of a picture that are read together
            (:mod:`core.models.views`); each costs a run of the image tower.
        image_precision: ``int8`` lets the image tower of a captioner in fp32 multiply in 8 bits on
            a CPU that can (:mod:`core.models.eight_bit`).
        further: How captions beyond the first are found, where several are wanted.
    """

    prompt: str = "A short image caption."
    retry_prompt: str = "Write a short description for the image."
    num_beams: int = 5
    min_new_tokens: int = 8
    max_new_tokens: int = 80
    repetition_penalty: float = 1.5
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    candidates: int = 1
    rerank_weight: float = 3.0
    image_views: tuple[tuple[float, ...], ...] = (WHOLE,)
    image_precision: Literal["fp32", "int8"] = "fp32"
    further: FurtherCaptions = FurtherCaptions()

    def __post_init__(self) -> None:
        """Refuse what no search can honour."""
        if self.num_beams < 1 or not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ModelError(
                f"Decoding with {self.num_beams} beams and {self.min_new_tokens} to "
                f"{self.max_new_tokens} tokens is not possible."
            )
        if self.candidates < 1 or self.rerank_weight < 0:
            raise ModelError(
                f"Choosing among {self.candidates} captions, the probe counting "
                f"{self.rerank_weight}, is not possible."
            )
        if self.image_precision not in ("fp32", "int8"):
            raise ModelError(f"An image tower runs in fp32 or int8, not {self.image_precision!r}.")
        _ = self.views

    @property
    def views(self) -> tuple[View, ...]:
        """The views of a picture, at least one.

        Raises:
            ModelError: They are no boxes within the picture.
        """
        return views_of({VIEWS_NAME: self.image_views}, "the captioner")

    def for_retry(self) -> Decoding:
        """Return the decoding of the second attempt: another prompt, no bigram twice."""
        return replace(
            self,
            prompt=self.retry_prompt,
            num_beams=self.num_beams + 2,
            repetition_penalty=max(self.repetition_penalty, 1.2),
            no_repeat_ngram_size=2,
        )


def read_decoding(folder: Path | None, default: Decoding = Decoding()) -> Decoding:  # noqa: B008
    """Return the decoding that a checkpoint asks for, or the default if it asks for none.

    Raises:
        ModelError: The file is not JSON, or names a field that does not exist.
    """
    path = folder / DECODING_FILE if folder else None
    if path is None or not path.is_file():
        return default
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["decoding"]
        _check_names(values, Decoding)
        if "further" in values:
            further = dict(values["further"])
            _check_names(further, FurtherCaptions)
            further["prompts"] = tuple(further.get("prompts", ()))
            values = {**values, "further": FurtherCaptions(**further)}
        if VIEWS_NAME in values:
            values = {**values, VIEWS_NAME: tuple(map(tuple, values[VIEWS_NAME]))}
        return Decoding(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{DECODING_FILE} of the captioner cannot be read.") from error


def _check_names(values: Iterable[str], settings: type) -> None:
    unknown = sorted(set(values) - {field.name for field in fields(settings)})
    if unknown:
        raise ModelError(f"{DECODING_FILE} names unknown settings: {', '.join(unknown)}.")
