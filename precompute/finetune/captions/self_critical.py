"""Self-critical training (Rennie et al. 2017, arXiv:1612.00563): sampled captions, and rewards.

The reward by CIDEr-D keeps the language human. The retrieval reward, after Luo et al. 2018
(arXiv:1803.04376), is what the caption lens needs: a caption that fits its own image and no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from core.errors import MissingDependencyError
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from precompute.evaluate.metrics.caption_metrics import normalise_caption
from precompute.finetune.captions.batches import CaptionBatch

if TYPE_CHECKING:
    from core.models.spec import TextEncoder
    from precompute.finetune.captions.objective import CaptionObjective
    from precompute.finetune.captions.recipe import Instruction, RewardRecipe

_END = "</s>"
_ROUNDING = 1e-6


class CiderReference:
    """The library's CIDEr-D (Vedantam et al. 2015), with n-grams counted once, in all references.

    By itself it counts them in the references of what it is given: a batch has too few.

    Args:
        references: Of every image; the corpus whose images an n-gram is counted in.
        mark_end: Whether the end counts as a word, without which a caption learns to stop at
            "in a".

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
    """

    def __init__(self, references: Sequence[Sequence[str]], *, mark_end: bool = False) -> None:
        """Count the n-grams."""
        try:
            from pycocoevalcap.cider.cider_scorer import CiderScorer
        except ImportError as error:
            raise MissingDependencyError("pycocoevalcap", "A reward by CIDEr") from error

        class Scorer(CiderScorer):
            """Keeps the number of images of the corpus, which the library counts anew."""

            ref_len = property(lambda _: math.log(max(2, len(references))), lambda _, value: None)

        self._end = f" {_END}" if mark_end else ""
        self._references = [[self._marked(text) for text in own] for own in references]
        self._scorer = Scorer()
        for own in self._references:
            self._scorer.cook_append(None, own)
        self._scorer.compute_doc_freq()

    def __call__(
        self, texts: Sequence[str], images: Sequence[int], answers: Sequence[Iterable[int]]
    ) -> np.ndarray:
        """Score captions against those of their images' references that ``answers`` number."""
        scorer = self._scorer
        scorer.crefs, scorer.ctest = [], []
        for text, image, numbers in zip(texts, images, answers, strict=True):
            chosen = [self._references[image][number] for number in numbers]
            scorer.cook_append(self._marked(text), chosen)
        return np.array(scorer.compute_cider())

    def _marked(self, text: str) -> str:
        return normalise_caption(text) + self._end


class RetrievalReference:
    """How well a caption picks its own image out of all, by the mean embedding of their captions.

    Args:
        captions: Of every image.
        encoder: What the caption lens compares texts by.
    """

    def __init__(self, captions: Sequence[Sequence[str]], encoder: TextEncoder) -> None:
        """Embed the captions; other texts are embedded once each."""
        self._encoder = encoder
        self._known: dict[str, np.ndarray] = {}
        counts = np.array([len(own) for own in captions])
        rows = encoder.encode_text([text for own in captions for text in own])
        means = np.add.reduceat(rows, counts.cumsum() - counts, axis=0) / counts[:, None]
        self._centre = means.mean(axis=0)
        self._means = self._centred(means)

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        """Take off what all captions share, and normalise."""
        rows = rows - self._centre
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    def __call__(self, texts: Sequence[str], images: np.ndarray) -> np.ndarray:
        """Return minus the logarithm of the own image's rank for each caption, float32 (n,)."""
        new = sorted(set(texts) - self._known.keys())
        if new:
            embedded = self._centred(self._encoder.encode_text(new))
            self._known.update(zip(new, embedded, strict=True))
        scores = np.stack([self._known[text] for text in texts]) @ self._means.T
        own = scores[np.arange(len(texts)), images]
        # Ties, to within rounding, count against it.
        ranks = (scores >= own[:, None] - _ROUNDING).sum(axis=1)
        return -np.log(ranks).astype(np.float32)


class SelfCritic:
    """Replaces the captions of a batch by sampled ones, and says what each is worth.

    Args:
        objective: Around the model that writes.
        recipe: What captions are worth.
        captions: Of every image, by people.
    """

    def __init__(
        self, objective: CaptionObjective, recipe: RewardRecipe, captions: Sequence[Sequence[str]]
    ) -> None:
        """Count the references' n-grams, and embed them if their images are to be found."""
        self._objective = objective
        self._recipe = recipe
        self._words = [[text.split() for text in own] for own in captions]
        self._cider = CiderReference(captions, mark_end=True) if recipe.cider else None
        self._retrieval = None
        if recipe.retrieval:
            self._retrieval = RetrievalReference(captions, MiniLmEncoder(PROFILES["mini"].sentence))
        self.mean_reward = 0.0

    def __call__(self, batch: CaptionBatch) -> CaptionBatch:
        """Return the batch with captions drawn from the model; torch's seed decides which."""
        import torch

        count = self._recipe.samples
        instruction = self._objective.recipe.instructions[batch.instruction]
        tokens, texts = self._objective.samples(batch.features, instruction, count)
        rewards = self.rewards(texts, np.repeat(batch.rows.numpy(), count), instruction)
        self.mean_reward = float(rewards.mean())
        own = rewards.reshape(-1, count)
        # Against the mean of the image's other samples (Luo 2020, arXiv:2003.09971).
        worth = ((own - own.mean(axis=1, keepdims=True)) * count / (count - 1)).reshape(-1)
        owners = torch.arange(len(batch.rows)).repeat_interleave(count)
        tokens = tokens.cpu()
        order = (tokens != -100).sum(dim=1).argsort(stable=True)
        return replace(
            batch,
            image_of_caption=owners[order],
            labels=tokens[order],
            worth=torch.from_numpy(worth.astype(np.float32))[order],
        )

    def rewards(
        self, texts: Sequence[str], images: np.ndarray, instruction: Instruction
    ) -> np.ndarray:
        """Return what each text is worth as an answer about its image, float64 (n,).

        Args:
            texts: Generated captions.
            images: int64 (n,): rows of the training images.
            instruction: The prompt, which decides which references count.
        """
        rewards = np.zeros(len(texts))
        if self._cider is not None:
            answers = [instruction.chosen(self._words[image]) for image in images]
            rewards += self._recipe.cider * self._cider(texts, images.tolist(), answers)
        if self._retrieval is not None:
            rewards += self._recipe.retrieval * self._retrieval(texts, images)
        return rewards
