"""Teaching the small captioner's T5 words from captions whose photos are not there.

The T5 reads four tokens in which the Q-Former says what a photo shows. A text without a photo is
read as the Q-Former would say it: its sentence embedding, brought by linear regression to where
such photos lie, with the error that the regression made on some photo with a caption. Q-Former and
image tower stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file

from core.errors import SourceError
from precompute.evaluate.metrics.caption_metrics import normalise_caption
from precompute.finetune.captions.batches import CaptionBatch
from precompute.finetune.captions.job import CHECKPOINT, Job, Split
from precompute.mini.pretraining import embed_captions, read_all, ridge_regression, write_arrays

if TYPE_CHECKING:
    from precompute.finetune.captions.objective import CaptionObjective
    from precompute.sources.pairs import Pairs

SAID = "said.safetensors"

Texts = Sequence[Sequence[str]]
"""Captions, those of one photo together."""


def read_texts(paths: Iterable[Path]) -> list[tuple[str, ...]]:
    """Read captions without photos: JSON lines, each with a list ``captions``.

    Raises:
        SourceError: A file cannot be read, or a line has no captions.
    """
    found: list[tuple[str, ...]] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path} cannot be read as text.") from error
        for number, line in enumerate(lines, start=1):
            try:
                captions = tuple(str(text).strip() for text in json.loads(line)["captions"])
            except (ValueError, KeyError, TypeError) as error:
                raise SourceError(f"{path.name}, line {number}: no list of captions.") from error
            if kept := tuple(text for text in captions if text):
                found.append(kept)
    return found


def add_words(model: Any, processor: Any, texts: Iterable[str], min_count: int) -> int:  # noqa: ANN401
    """Let an InstructBLIP with a word-level tokenizer say the words that texts use often enough.

    The words that it had keep their places; a new one begins as the mean of those.

    Args:
        model: Its language model grows.
        processor: Its tokenizer is replaced.
        texts: Captions.
        min_count: Rarer words are left out.

    Returns:
        How many words were added.

    Raises:
        SourceError: The tokenizer knows pieces of words, which say every word already.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    described = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    if described["model"]["type"] != "WordLevel":
        raise SourceError("Only a captioner with a word-level tokenizer learns new words.")
    known: dict[str, int] = described["model"]["vocab"]
    counts = Counter(word for text in texts for word in normalise_caption(text).split())
    new = [w for w, n in counts.items() if n >= min_count and w not in known]
    new.sort(key=lambda word: (-counts[word], word))
    if not new:
        return 0
    known |= {word: len(known) + place for place, word in enumerate(new)}
    old = processor.tokenizer
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        pad_token=old.pad_token,
        eos_token=old.eos_token,
        unk_token=old.unk_token,
    )
    before = len(known) - len(new)
    model.language_model.resize_token_embeddings(len(known), mean_resizing=False)
    for words in (
        model.language_model.get_input_embeddings(),
        model.language_model.get_output_embeddings(),
    ):
        words.weight.data[before:] = words.weight.data[:before].mean(dim=0)
    model.config.text_config.vocab_size = len(known)
    return len(new)


@dataclass(frozen=True, slots=True)
class Said:
    """What the Q-Former says of photos, and how texts are brought there.

    Attributes:
        photos: float16 (photos, queries * width): its tokens for each photo.
        errors: float16 (captions, queries * width): what the regression misses.
        weight: float32 (dim, queries * width).
        bias: float32 (queries * width,).
        texts: float16 (texts, dim): sentence embeddings of the texts without photos.
    """

    photos: np.ndarray
    errors: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    texts: np.ndarray


def photos_and_texts(job: Job, pairs: Pairs, texts: Texts) -> tuple[Split, AsIfSaid]:
    """Return photos and texts as one split, and what lets the T5 read them all as if said.

    Args:
        job: Of the captioner; its folder keeps what the Q-Former says.
        pairs: Photos with captions.
        texts: Captions without photos.

    Raises:
        SourceError: There is only one photo.
    """
    path = job.folder / CHECKPOINT / SAID
    if path.is_file():
        said = Said(**load_file(path))
    else:
        said = say_all(job.objective, job.split(pairs), texts)
        if job.writes:
            write_arrays(path, said)
    captions = [*pairs.captions, *texts]
    counts = [len(own) for own in texts]
    queries = job.objective.model.config.num_query_tokens
    # Features of the split are not looked at.
    split = Split(np.zeros((len(captions), 1, 1), dtype=np.float16), captions)
    return split, AsIfSaid(said, len(pairs), counts, queries)


def digest_of(texts: Texts) -> str:
    """Return what tells these texts from others."""
    return hashlib.sha256(json.dumps([list(own) for own in texts]).encode()).hexdigest()[:16]


class AsIfSaid:
    """Puts what the Q-Former says, or would say, into an image's place."""

    def __init__(self, said: Said, photos: int, counts: Sequence[int], queries: int) -> None:
        """Remember where each text's captions begin."""
        self._said = said
        self._photos = photos
        self._first = np.cumsum(counts) - counts
        self._queries = queries

    def __call__(self, batch: CaptionBatch) -> CaptionBatch:
        """Return the batch with image tokens in the place of features, one row a caption."""
        said = self._said
        rows = batch.rows.numpy()[batch.image_of_caption.numpy()]
        seen = rows < self._photos
        read = np.empty((len(rows), len(said.bias)), dtype=np.float32)
        read[seen] = said.photos[rows[seen]]
        places = self._first[rows[~seen] - self._photos] + batch.numbers.numpy()[~seen]
        # torch's generator, for the loop sets that one back when a run resumes.
        missed = torch.randint(len(said.errors), (len(places),)).numpy()
        embedded = said.texts[places].astype(np.float32)
        read[~seen] = embedded @ said.weight + said.bias + said.errors[missed]
        tokens = torch.from_numpy(read).view(len(rows), self._queries, -1)
        return replace(batch, image_of_caption=torch.arange(len(rows)), image_tokens=tokens)


def say_all(objective: CaptionObjective, seen: Split, texts: Texts) -> Said:
    """Ask the Q-Former about all photos, and fit what brings texts to where these lie.

    Args:
        objective: Around the model.
        seen: Photos and their captions.
        texts: Captions without photos.

    Raises:
        SourceError: There are fewer than two photos, from which nothing can be fitted.
    """
    if len(seen.features) < 2:
        raise SourceError("Two photos with captions or more are needed beside the texts.")
    objective.model.eval()
    prompt = objective.recipe.instructions[0]
    photos = read_all(lambda rows: objective.image_tokens(rows, prompt).flatten(1), seen.features)
    embedded = embed_captions(seen.captions)
    aims = photos.repeat([len(own) for own in seen.captions], axis=0)
    weight, bias = ridge_regression(embedded, aims)
    return Said(
        photos.astype(np.float16),
        (aims - embedded @ weight - bias).astype(np.float16),
        weight,
        bias,
        embed_captions(texts).astype(np.float16),
    )
