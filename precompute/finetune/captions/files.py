"""What a captioner's training writes: a whole checkpoint or an adapter, and how to caption."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import write_atomically
from core.models.captioner.lora import ADAPTER_WEIGHTS
from core.models.captioner.rerank import PROBE_FILE
from core.models.captioner.settings import DECODING_FILE, Decoding
from core.models.locate import revision_of
from core.models.tensors import is_8_bit, read_tensors

if TYPE_CHECKING:
    from core.models.spec import ModelSpec
    from precompute.finetune.captions.objective import CaptionObjective

_SHARD = "45MB"
"""Of one file of weights; hosts of code refuse files over 50 MB."""


class CaptionerFiles:
    """Writes what the captioner of :mod:`core.models.captioner` loads, and reads it back.

    Args:
        folder: Made by the caller.
        decoding: Written beside the weights.
        adapted: The model as peft saves it; None writes all weights.
        base: What the training started from; None if from nothing.
        eight_bit: Whether :meth:`finish` turns all matrices into 8 bits.
    """

    def __init__(
        self,
        folder: Path,
        decoding: Decoding,
        adapted: Any = None,  # noqa: ANN401 - PeftModel, imported lazily
        base: ModelSpec | None = None,
        *,
        eight_bit: bool = False,
    ) -> None:
        """Remember where and what."""
        self.folder = folder
        self.decoding = decoding
        self._adapted = adapted
        self._base = base
        self._eight_bit = eight_bit
        # For the record: no folder of this machine.
        self.origin = {"name": base.name, "revision": revision_of(base)} if base else None

    def write(self, objective: CaptionObjective) -> None:
        """Write what is in the model: all weights in half precision, or the adapter in full."""
        # A reranker is for the weights that it was fitted to.
        (self.folder / PROBE_FILE).unlink(missing_ok=True)
        if self._adapted is None:
            self._write_all(objective.model)
            objective.processor.save_pretrained(self.folder)
        else:
            self._write_adapter()
        content = {
            "decoding": asdict(self.decoding),
            **({"base": self.origin} if self.origin else {}),
        }
        write_atomically(
            self.folder / DECODING_FILE, (json.dumps(content, indent=2) + "\n").encode()
        )

    def _write_all(self, model: Any) -> None:  # noqa: ANN401
        import torch

        # Tied tensors must stay one, or each copy is written.
        state = model.state_dict()
        kept = {tensor.data_ptr(): tensor for tensor in state.values()}
        halved = {key: tensor.to("cpu", torch.float16) for key, tensor in kept.items()}
        halves = {name: halved[tensor.data_ptr()] for name, tensor in state.items()}
        self._remove_weights()
        model.save_pretrained(self.folder, state_dict=halves, max_shard_size=_SHARD)

    def _write_adapter(self) -> None:
        if self._base is not None:
            kind, _, rest = self._base.source.partition(":")
            config = self._adapted.peft_config["default"]
            config.base_model_name_or_path = self._base.source if kind == "asset" else rest
            config.revision = self._base.revision
        # "auto" would ask the Hub whether the base's vocabulary has grown.
        self._adapted.save_pretrained(self.folder, save_embedding_layers=False)
        (self.folder / "README.md").unlink(missing_ok=True)

    def _remove_weights(self) -> None:
        for old in self.folder.glob("model*.safetensors*"):
            old.unlink()

    def finish(self) -> None:
        """Bring the best weights into their last form: 8 bits if asked for.

        Raises:
            MissingDependencyError: bitsandbytes is not installed.
        """
        if not self._eight_bit:
            return
        import torch
        from transformers import (
            BitsAndBytesConfig,
            InstructBlipConfig,
            InstructBlipForConditionalGeneration,
        )

        if is_8_bit(InstructBlipConfig.from_pretrained(self.folder)):
            return  # by an earlier run of the same command
        # A head tied to the word embeddings would be written twice if it were in 8 bits.
        settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
        model = InstructBlipForConditionalGeneration.from_pretrained(
            self.folder,
            dtype=torch.float16,
            quantization_config=settings,
            device_map={"": "cpu"},
            use_safetensors=True,
        )
        for parameter in model.parameters():
            # transformers reads some parts of T5 in float32, for its overflows in float16.
            if parameter.dtype == torch.float32:
                parameter.data = parameter.data.half()
        self._remove_weights()
        model.save_pretrained(self.folder, max_shard_size=_SHARD)

    def read_back(self, objective: CaptionObjective) -> None:
        """Put into the model what was written: the best weights, as they were rounded."""
        if self._adapted is not None:
            from peft import set_peft_model_state_dict
            from safetensors.torch import load_file

            set_peft_model_state_dict(self._adapted, load_file(self.folder / ADAPTER_WEIGHTS))
            return
        objective.model.load_state_dict(read_tensors(self.folder), strict=False)
