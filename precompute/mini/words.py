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

from core.errors import SourceError
from precompute.evaluate.metrics.caption_metrics import normalise_caption
from precompute.finetune.captions.batches import CaptionBatch
from precompute.mini.pretraining import embed_captions, read_all, ridge_regression
from precompute.sources.photo_folders.metadata_tables import rows_of

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge

    from precompute.finetune.captions.job import Split
    from precompute.finetune.captions.objective import CaptionObjective

Texts = Sequence[Sequence[str]]
"""Captions, those of one photo together."""


def read_texts(paths: Iterable[Path]) -> list[tuple[str, ...]]:
    """Read captions without photos: JSON lines, each with a list ``captions``.

    Raises:
        SourceError: A file cannot be read, or a line has no captions.
    """
    found = []
    for path in paths:
        for number, row in enumerate(rows_of(path), start=1):
            if not isinstance(row.get("captions"), list):
                raise SourceError(f"{path.name}, line {number}: no list of captions.")
            said = (str(text).strip() for text in row["captions"])
            if kept := tuple(text for text in said if text):
                found.append(kept)
    return found


def add_words(model: Any, processor: Any, texts: Iterable[str], min_count: int) -> int:  # noqa: ANN401
    """Let an InstructBLIP with a word-level tokenizer say the words that texts use often enough.

    The words that it had keep their places; a new one begins as the mean of those.

    Args:
        model: Its language model grows.
        processor: Its tokenizer grows too.
        texts: Captions.
        min_count: Rarer words are left out.

    Returns:
        How many words were added.

    Raises:
        SourceError: The tokenizer knows pieces of words, which say every word already.
    """
    from tokenizers.models import WordLevel

    backend = processor.tokenizer.backend_tokenizer
    if not isinstance(backend.model, WordLevel):
        raise SourceError("Only a captioner with a word-level tokenizer learns new words.")
    known = backend.get_vocab(with_added_tokens=False)
    counts = Counter(word for text in texts for word in normalise_caption(text).split())
    new = [w for w, n in counts.items() if n >= min_count and w not in known]
    new.sort(key=lambda word: (-counts[word], word))
    if not new:
        return 0
    known |= {word: len(known) + place for place, word in enumerate(new)}
    backend.model = WordLevel(known, unk_token=processor.tokenizer.unk_token)
    model.language_model.resize_token_embeddings(len(known))
    model.config.text_config.vocab_size = len(known)
    return len(new)


@dataclass(frozen=True, slots=True)
class TextsAsTokens:
    """Puts what the Q-Former says of photos, or would say of texts, into an image's place.

    Attributes:
        photos: float16 (photos, queries, width): its tokens for each photo.
        errors: float16 (captions, queries * width): what the regression misses.
        regression: From embeddings (n, dim) to tokens (n, queries * width).
        texts: float16 (texts, dim): sentence embeddings of the texts without photos.
        first: int (groups,): where the texts of each photo that is not there begin.
    """

    photos: np.ndarray
    errors: np.ndarray
    regression: Ridge
    texts: np.ndarray
    first: np.ndarray

    @classmethod
    def fitted(cls, objective: CaptionObjective, seen: Split, texts: Texts) -> TextsAsTokens:
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
        photos = read_all(lambda rows: objective.image_tokens(rows, prompt), seen.features)
        embedded = embed_captions(seen.captions)
        aims = photos.reshape(len(photos), -1).repeat([len(own) for own in seen.captions], axis=0)
        regression = ridge_regression(embedded, aims)
        counts = [len(own) for own in texts]
        return cls(
            photos.astype(np.float16),
            (aims - regression.predict(embedded)).astype(np.float16),
            regression,
            embed_captions(texts).astype(np.float16),
            np.cumsum(counts) - counts,
        )

    def __call__(self, batch: CaptionBatch) -> CaptionBatch:
        """Return the batch with image tokens in the place of features, one row a caption."""
        rows = batch.rows.numpy()[batch.image_of_caption.numpy()]
        seen = rows < len(self.photos)
        read = np.empty((len(rows), *self.photos.shape[1:]), dtype=np.float32)
        read[seen] = self.photos[rows[seen]]
        places = self.first[rows[~seen] - len(self.photos)] + batch.numbers.numpy()[~seen]
        # torch's generator, for the loop sets that one back when a run resumes.
        missed = torch.randint(len(self.errors), (len(places),)).numpy()
        said = self.texts[places].astype(np.float32) @ self.regression.coef_.T
        said += self.regression.intercept_ + self.errors[missed]
        read[~seen] = said.reshape(-1, *self.photos.shape[1:])
        owners = torch.arange(len(rows))
        return replace(batch, image_of_caption=owners, image_tokens=torch.from_numpy(read))


def digest_of(texts: Texts) -> str:
    """Return what tells these texts from others."""
    return hashlib.sha256(json.dumps([list(own) for own in texts]).encode()).hexdigest()[:16]
