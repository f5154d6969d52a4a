"""What a captioner is trained for, and how it captions, from the image tower's features on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, dropout
from transformers.modeling_outputs import BaseModelOutput

from core.models.captioner.decoding import search_arguments
from core.models.captioner.settings import Decoding
from precompute.finetune.captions.batches import CaptionBatch
from precompute.finetune.captions.recipe import CaptionRecipe, Instruction

_PARTS = 5
"""Captions of a batch are decoded in so many groups of like length, each padded for itself."""

_DECODED_AT_ONCE = 100


class CaptionObjective(torch.nn.Module):
    """The loss of a batch of captions, each image encoded once for all its captions.

    Args:
        model: ``InstructBlipForConditionalGeneration``, around an encoder-decoder (T5) or a
            decoder-only language model.
        processor: Its processor; the two tokenizers may differ.
        recipe: How to train.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - imported lazily
        processor: Any,  # noqa: ANN401
        recipe: CaptionRecipe,
    ) -> None:
        """Look up what kind of language model it is."""
        super().__init__()
        self.model = model
        self.processor = processor
        self.recipe = recipe
        self.has_decoder = not model.config.use_decoder_only_language_model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.query_tokens.device

    def _ids(self, tokenizer: Any, prompt: str, count: int) -> torch.Tensor:  # noqa: ANN401
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        return ids.to(self.device).expand(count, -1)

    def _read_ids(self, instruction: Instruction, count: int) -> torch.Tensor:
        """Return what a decoder-only model has read before it writes, for its penalties."""
        prompt = self._ids(self.processor.tokenizer, instruction.text, count)
        config = self.model.config
        image = prompt.new_full((count, config.num_query_tokens), config.image_token_index)
        return torch.cat([image, prompt], dim=1)

    def normed(self, features: torch.Tensor) -> torch.Tensor:
        """Return the image tower's output, (images, tokens, width): the last layer norm."""
        features = features.to(self.device, self.model.query_tokens.dtype)
        return self.model.vision_model.post_layernorm(features)

    def image_tokens(self, features: torch.Tensor, instruction: Instruction) -> torch.Tensor:
        """Return what the language model reads of the images, (images, queries, width)."""
        model, count = self.model, len(features)
        dropped = self.recipe.feature_dropout
        hidden = dropout(self.normed(features), dropped, training=model.training)
        queries = model.query_tokens.expand(count, -1, -1)
        answered = model.qformer(
            input_ids=self._ids(self.processor.qformer_tokenizer, instruction.text, count),
            query_embeds=queries,
            encoder_hidden_states=hidden,
        )[0][:, : queries.shape[1]]
        return model.language_projection(answered)

    def read(self, image_tokens: torch.Tensor, instruction: Instruction) -> torch.Tensor:
        """Return what the language model continues, (images, queries + prompt tokens, width).

        It has passed through the encoder of a language model that has one.
        """
        model = self.model
        prompt = self._ids(self.processor.tokenizer, instruction.text, len(image_tokens))
        words = model.get_input_embeddings()(prompt)
        sequence = torch.cat([image_tokens.to(words.device, words.dtype), words], dim=1)
        if self.has_decoder:
            sequence = model.language_model.encoder(inputs_embeds=sequence)[0]
        return sequence

    def encode(self, features: torch.Tensor, instruction: Instruction) -> torch.Tensor:
        """Return what the decoder attends to: the model's own ``forward`` up to there."""
        return self.read(self.image_tokens(features, instruction), instruction)

    def forward(self, batch: CaptionBatch) -> torch.Tensor:
        """Return the mean cross entropy of the words of all captions of the batch."""
        instruction = self.recipe.instructions[batch.instruction]
        if batch.image_tokens is None:
            encoded = self.encode(batch.features, instruction)
        else:
            encoded = self.read(batch.image_tokens, instruction)
        total = torch.zeros((), device=self.device)
        parts = zip(batch.image_of_caption.chunk(_PARTS), batch.labels.chunk(_PARTS), strict=True)
        for owners, padded in parts:
            longest = int((padded != -100).nonzero()[:, 1].max()) + 1
            labels = padded[:, :longest].to(self.device)
            logits = self._logits(encoded[owners.to(self.device)], labels).flatten(0, 1).float()
            smoothing = self.recipe.label_smoothing
            total = total + cross_entropy(
                logits, labels.flatten(), label_smoothing=smoothing, reduction="sum"
            )
        return total / (batch.labels != -100).sum().to(self.device)

    def _logits(self, encoded: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (captions, longest, vocabulary), each word predicted from those before it."""
        tokenizer, language_model = self.processor.tokenizer, self.model.language_model
        unknown = tokenizer.unk_token_id
        unknown = tokenizer.eos_token_id if unknown is None else unknown
        hidden = torch.rand(labels.shape, device=self.device) < self.recipe.word_dropout
        words = labels.masked_fill((labels == -100) | hidden, unknown)
        if self.has_decoder:
            start = self.model.config.text_config.decoder_start_token_id
            words = torch.cat([torch.full_like(words[:, :1], start), words[:, :-1]], dim=1)
            return language_model(encoder_outputs=(encoded,), decoder_input_ids=words).logits
        embedded = self.model.get_input_embeddings()(words[:, :-1])
        sequence = torch.cat([encoded, embedded.to(encoded.dtype)], dim=1)
        return language_model(inputs_embeds=sequence).logits[:, encoded.shape[1] - 1 :]

    def captions(
        self,
        features: np.ndarray,
        instruction: Instruction,
        decoding: Decoding,
        *,
        num_beams: int | None = None,
    ) -> list[str]:
        """Caption images from their cached features.

        Args:
            features: float16 (images, tokens, width), of the images.
            instruction: The prompt.
            decoding: The search; its prompts are not used.
            num_beams: Instead of the search's own.
        """
        texts: list[str] = []
        search = search_arguments(replace(decoding, num_beams=num_beams or decoding.num_beams))
        search["output_logits"] = False
        self.model.eval()
        for start in range(0, len(features), _DECODED_AT_ONCE):
            rows = torch.from_numpy(np.float32(features[start : start + _DECODED_AT_ONCE]))
            with torch.inference_mode():
                encoded = self.encode(rows, instruction)
                given: dict[str, Any] = {
                    "encoder_outputs": BaseModelOutput(last_hidden_state=encoded)
                }
                if not self.has_decoder:
                    read = self._read_ids(instruction, len(encoded))
                    given = {"inputs_embeds": encoded, "input_ids": read}
                tokens = self.model.language_model.generate(
                    **given,
                    attention_mask=torch.ones(encoded.shape[:2], device=self.device).long(),
                    suppress_tokens=self.model.generation_config.suppress_tokens,
                    **search,
                ).sequences
            written = tokens[:, 1 if self.has_decoder else encoded.shape[1] :]
            texts += self.processor.batch_decode(written, skip_special_tokens=True)
        return texts
