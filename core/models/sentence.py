"""all-MiniLM-L6-v2, the sentence encoder of the caption lens, on transformers alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import ModelNotFoundError
from core.models.devices import resolve_device
from core.models.encoding import Once, embed_texts, require_dim, require_precision
from core.models.locate import hub_remedy, local_folder
from core.models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

_MOST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class TokenEmbeddings:
    """What a sentence encoder's embedding of one text is the mean of.

    Attributes:
        vectors: float32 (tokens, dim), as the last layer gives them, of any norm.
        words: For each token the word of the text that it belongs to, from 0; None for the tokens
            that mark the text's ends.
        spans: Where each word begins and ends in the text, in characters.
    """

    vectors: np.ndarray
    words: tuple[int | None, ...]
    spans: tuple[tuple[int, int], ...]


class MiniLmEncoder:
    """all-MiniLM-L6-v2, or another BERT-like sentence encoder with mean pooling.

    What ``sentence_transformers`` computes for it, token for token, without that package's
    import, which would be a quarter of the time from the app's start to its first answer.

    Args:
        spec: Which model; ``spec.dim`` is checked after the load.
        device: See :func:`core.models.devices.resolve_device`.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._model = Once(self._load)
        # Fast tokenizers fail with "Already borrowed" when two threads set their padding.
        self._tokenizing = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model.made

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, dim), rows of unit norm, in the order of ``texts``.

        Of a longer text the first 256 tokens count.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        tokenizer, model = self._model.get()

        def embed(batch: Sequence[str]) -> torch.Tensor:
            with self._tokenizing:
                tokens = tokenizer(
                    list(batch),
                    padding=True,
                    truncation=True,
                    max_length=_MOST_TOKENS,
                    return_tensors="pt",
                ).to(model.device)
            mask = tokens["attention_mask"].unsqueeze(-1)
            return (model(**tokens).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)

        return embed_texts(embed, texts, model.config.hidden_size)

    def unload_idle(self, seconds: float) -> bool:
        """Forget weights that were not used for so long; return whether there were any."""
        return self._model.drop_if_idle(seconds)

    def encode_tokens(self, texts: Sequence[str]) -> list[TokenEmbeddings]:
        """Return the embeddings of each text's tokens, whose mean :meth:`encode_text` normalises.

        Raises:
            ModelNotFoundError: The weights cannot be loaded.
            ModelError: Their dimension is not the one of the specification.
        """
        import torch

        tokenizer, model = self._model.get()
        found = []
        for text in texts:
            with self._tokenizing:
                tokens = tokenizer(
                    text, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt"
                ).to(model.device)
            words = tuple(tokens.word_ids(0))
            count = 1 + max((word for word in words if word is not None), default=-1)
            spans = tuple(tuple(tokens.word_to_chars(0, word)) for word in range(count))
            with torch.inference_mode():
                vectors = model(**tokens).last_hidden_state[0].float().cpu().numpy()
            found.append(TokenEmbeddings(vectors, words, spans))
        return found

    def _load(self) -> tuple[Any, Any]:
        require_precision(self.spec, "fp32")
        folder = local_folder(self.spec)
        from transformers import AutoModel, AutoTokenizer

        where = str(folder or self.spec.source.removeprefix("hub:"))
        options = {"local_files_only": True} if folder else {"revision": self.spec.revision}
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model = AutoModel.from_pretrained(
                where,
                use_safetensors=True,
                trust_remote_code=False,
                dtype="float32",
                # Sentences are pooled from the tokens; BERT's own pooler is not a part of it.
                add_pooling_layer=False,
                **options,
            )
        except (OSError, ValueError, KeyError) as error:
            remedy = "Its folder is incomplete." if folder else hub_remedy(self.spec)
            raise ModelNotFoundError(self.spec.name, remedy) from error
        require_dim(self.spec, model.config.hidden_size)
        return tokenizer, model.to(resolve_device(self._device)).eval()
