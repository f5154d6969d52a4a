"""BERT for sentence embeddings, on torch's own encoder layers and the Rust tokenizer.

What ``transformers`` computes for the same weights, without that package's import, which is a third
of the app's start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.models.tensors import WEIGHTS_NAME

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer

CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
FILES = (CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME)
"""What is read of a checkpoint."""

_ATTENTION = "attention.self"


class Bert:
    """A BERT of absolute positions in memory, in float32 and evaluation mode.

    Safe to use from several threads.

    Attributes:
        width: Length of a token's embedding.
        pad_id: Id of the token that fills up the rows of a batch.

    Args:
        config: Content of ``config.json``.
        tensors: By the names that ``transformers`` gives them; a pooler's are not read.

    Raises:
        KeyError: A tensor or a field of the configuration is missing.
        ValueError: This is another architecture.
        RuntimeError: A tensor has another shape than the configuration says.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Build the layers and fill them."""
        from torch import nn

        require_bert(config)
        self.width = int(config["hidden_size"])
        self.pad_id = int(config["pad_token_id"])
        self._words = tensors["embeddings.word_embeddings.weight"].float()
        # A single text is all of the first of BERT's two kinds of sentence.
        kind = tensors["embeddings.token_type_embeddings.weight"][0].float()
        self._places = tensors["embeddings.position_embeddings.weight"].float() + kind
        self._norm = nn.LayerNorm(self.width, eps=config["layer_norm_eps"])
        self._norm.load_state_dict(_part(tensors, "embeddings.LayerNorm."))
        layer = nn.TransformerEncoderLayer(
            self.width,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation="gelu",
            layer_norm_eps=config["layer_norm_eps"],
            batch_first=True,
        )
        count = config["num_hidden_layers"]
        self._layers = nn.TransformerEncoder(layer, count, enable_nested_tensor=False)
        for number, filled in enumerate(self._layers.layers):
            filled.load_state_dict(_layer(_part(tensors, f"encoder.layer.{number}.")))
        self._norm.eval()
        self._layers.eval()

    def to(self, device: str) -> Bert:
        """Move to a device, and return this."""
        self._words, self._places = self._words.to(device), self._places.to(device)
        self._norm.to(device)
        self._layers.to(device)
        return self

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the last layer's embeddings (n, length, width) of token ids (n, length)."""
        ids = ids.to(self._words.device)
        hidden = self._norm(self._words[ids] + self._places[: ids.shape[1]])
        return self._layers(hidden, src_key_padding_mask=ids == self.pad_id)

    def mean(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean (n, width) of the embeddings of each row's tokens, without padding."""
        kept = (ids != self.pad_id).unsqueeze(-1).to(self._words.device)
        return (self(ids) * kept).sum(dim=1) / kept.sum(dim=1)


class BertTokenizer:
    """Turns texts into token ids. Safe to use from several threads.

    Args:
        file: ``tokenizer.json``.
        most: Tokens of a text that count.
        pad_id: Id of the token that fills up shorter rows.
    """

    def __init__(self, file: Path, most: int, pad_id: int) -> None:
        """Read the file.

        Raises:
            ValueError: It holds no tokenizer.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises no narrower class
            raise ValueError(f"{file.name} holds no tokenizer") from error
        self._tokenizer.enable_truncation(most)
        self._tokenizer.enable_padding(pad_id=pad_id)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Return the tokens of each text, padded to the longest."""
        return self._tokenizer.encode_batch(list(texts))

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return token ids (n, length)."""
        import torch

        return torch.tensor([encoding.ids for encoding in self.encode(texts)])


def read_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's configuration.

    Raises:
        OSError: It is not there.
        ValueError: It is not a JSON object.
    """
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_NAME} is no JSON object")
    return config


def require_bert(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless a configuration is one that :class:`Bert` computes."""
    wanted = {"model_type": "bert", "hidden_act": "gelu"}
    for name, value in wanted.items():
        if config.get(name) != value:
            raise ValueError(f"{name} is {config.get(name)!r}, not {value!r}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError("positions are not absolute")


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _layer(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return one layer's tensors by torch's names, queries, keys and values in one matrix."""
    import torch

    names = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
    }
    found = {}
    for end in ("weight", "bias"):
        parts = [tensors[f"{_ATTENTION}.{part}.{end}"] for part in ("query", "key", "value")]
        found[f"self_attn.in_proj_{end}"] = torch.cat(parts)
        found.update({f"{new}.{end}": tensors[f"{old}.{end}"] for new, old in names.items()})
    return found
