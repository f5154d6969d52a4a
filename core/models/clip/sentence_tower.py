"""The text tower of a CLIP model over an installed sentence encoder, for queries.

open_clip builds the same tower from ``transformers``, for training too; see :mod:`.towers`. Here
it is built without either, so that a text search imports neither.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.models.sentence.bert import TOKENIZER_NAME, Bert, BertTokenizer, read_config, require_bert
from core.models.tensors import read_tensors

if TYPE_CHECKING:
    import torch

_TRANSFORMER = "transformer."
_PROJECTION = "proj."


class SentenceTower:
    """A BERT with mean pooling, and what projects it into CLIP's space.

    Args:
        bert: The sentence encoder.
        projection: Maps (n, width) to (n, dim).
    """

    def __init__(self, bert: Bert, projection: torch.nn.Module) -> None:
        """Put both together."""
        self._bert = bert
        self._projection = projection.eval()

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings (n, dim), not normalised, of token ids (n, length)."""
        return self._projection(self._bert.mean(ids))

    def to(self, device: str) -> SentenceTower:
        """Move to a device, and return this."""
        self._bert.to(device)
        self._projection.to(device)
        return self


def is_sentence_tower(text_cfg: Mapping[str, Any], base: Path) -> bool:
    """Tell whether a text tower can be built here.

    Args:
        text_cfg: Of an open_clip configuration.
        base: Folder of the installed package that supplies the transformer.
    """
    others = ("tokenizer_mode", "tokenizer_kwargs")
    plain = text_cfg.get("hf_pooler_type") == "mean_pooler" and not any(map(text_cfg.get, others))
    own_tokenizer = text_cfg.get("hf_tokenizer_name") == text_cfg.get("hf_model_name")
    if not plain or not own_tokenizer or text_cfg.get("hf_proj_type") != "mlp":
        return False
    try:
        require_bert(read_config(base))
    except (OSError, ValueError):
        return False
    return True


def build_sentence_tower(
    tensors: Mapping[str, torch.Tensor], projection: torch.nn.Module, base: Path
) -> SentenceTower:
    """Build a tower of a model's own tensors, and of the package's where it has none.

    Args:
        tensors: Of the tower, by open_clip's names.
        projection: To be filled.
        base: Folder of the package.

    Raises:
        OSError: A file of the package is missing.
        KeyError: A tensor is missing.
        RuntimeError: A tensor has another shape, or is not known.
    """
    own = {
        name.removeprefix(_TRANSFORMER): tensor
        for name, tensor in tensors.items()
        if name.startswith(_TRANSFORMER)
    }
    rest = {
        name.removeprefix(_PROJECTION): tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith(_TRANSFORMER)
    }
    projection.load_state_dict(rest)
    return SentenceTower(Bert(read_config(base), {**read_tensors(base), **own}), projection)


def sentence_tokenizer(base: Path, length: int) -> SentenceTokenizer:
    """Return the tokenizer of such a tower, which keeps ``length`` tokens of a text."""
    pad_id = int(read_config(base)["pad_token_id"])
    return SentenceTokenizer(BertTokenizer(base / TOKENIZER_NAME, length, pad_id))


class SentenceTokenizer:
    """Cleans texts as open_clip does, and turns them into token ids."""

    def __init__(self, tokenizer: BertTokenizer) -> None:
        """Take the tokenizer of the sentence encoder."""
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return token ids (n, length), as long as the longest text needs."""
        return self._tokenizer([_clean(text) for text in texts])


def _clean(text: str) -> str:
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
