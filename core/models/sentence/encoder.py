"""all-MiniLM-L6-v2, the sentence encoder of the caption lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import ModelNotFoundError
from core.models.devices import resolve_device
from core.models.encoding import Once, embed_texts, require_dim, require_precision
from core.models.locate import hub_files, local_folder
from core.models.sentence.bert import FILES, TOKENIZER_NAME, Bert, BertTokenizer, read_config
from core.models.spec import ModelSpec
from core.models.tensors import read_tensors

if TYPE_CHECKING:
    import numpy as np

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

    What ``sentence_transformers`` computes for it, without that package's import, nor that of
    ``transformers``: they would be a third of the work from the app's start to its first answer.

    Args:
        spec: Which model; ``spec.dim`` is checked after the load.
        device: See :func:`core.models.devices.resolve_device`.
    """

    def __init__(self, spec: ModelSpec, *, device: str = "auto") -> None:
        """Remember what to load; load nothing."""
        self.spec = spec
        self._device = device
        self._model = Once(self._load)

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
        tokenizer, bert = self._model.get()
        return embed_texts(lambda batch: bert.mean(tokenizer(batch)), texts, bert.width)

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

        tokenizer, bert = self._model.get()
        if not texts:
            return []
        encodings = tokenizer.encode(texts)
        with torch.inference_mode():
            rows = bert(torch.tensor([encoding.ids for encoding in encodings])).cpu().numpy()
        found = []
        for encoding, vectors in zip(encodings, rows, strict=True):
            kept = sum(encoding.attention_mask)
            words = tuple(encoding.word_ids[:kept])
            count = 1 + max((word for word in words if word is not None), default=-1)
            spans = tuple(encoding.word_to_chars(word) or (0, 0) for word in range(count))
            found.append(TokenEmbeddings(vectors[:kept], words, spans))
        return found

    def _load(self) -> tuple[BertTokenizer, Bert]:
        require_precision(self.spec, "fp32")
        folder = local_folder(self.spec) or hub_files(self.spec, *FILES)[0].parent
        from safetensors import SafetensorError

        try:
            config = read_config(folder)
            bert = Bert(config, read_tensors(folder))
            tokenizer = BertTokenizer(folder / TOKENIZER_NAME, _MOST_TOKENS, bert.pad_id)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelNotFoundError(self.spec.name, "Its folder is incomplete.") from error
        require_dim(self.spec, bert.width)
        return tokenizer, bert.to(resolve_device(self._device))
