"""Self-critical training: the captions of a batch are the model's own, and each has its worth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from precompute.finetune.captions.batches import CaptionBatch
from precompute.finetune.captions.rewards import CiderReference, RetrievalReference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precompute.finetune.captions.objective import CaptionObjective
    from precompute.finetune.captions.recipe import Instruction, RewardRecipe
    from precompute.finetune.shared.embeddings import Meanings


class SelfCritic:
    """Replaces the captions of a batch by sampled ones, and says what each is worth.

    Args:
        objective: Around the model that writes.
        recipe: What captions are worth.
        captions: Of every training image, by people.
        meanings: Of every training image; needed for the retrieval reward.
    """

    def __init__(
        self,
        objective: CaptionObjective,
        recipe: RewardRecipe,
        captions: Sequence[Sequence[str]],
        meanings: Meanings | None,
    ) -> None:
        """Weigh the references."""
        from precompute.finetune.shared.embeddings import sentence_encoder

        self._objective = objective
        self._recipe = recipe
        self._words = [[text.split() for text in own] for own in captions]
        self._cider = CiderReference(captions, mark_end=True) if recipe.cider else None
        self._retrieval = None
        if meanings is not None and recipe.retrieval:
            self._retrieval = RetrievalReference(meanings, sentence_encoder())
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
        # Against the mean of the image's other samples.
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
            for row, (text, image) in enumerate(zip(texts, images, strict=True)):
                answers = instruction.chosen(self._words[image])
                rewards[row] = self._recipe.cider * self._cider(text, int(image), answers)
        if self._retrieval is not None:
            rewards += self._recipe.retrieval * self._retrieval(texts, images)
        return rewards
