"""InstructBLIP as a captioner: in 8 bits, bfloat16 or float32."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from core.models.captioner.base import GeneratingCaptioner, Loaded
from core.models.captioner.loading import decoding_of, read_instructblip, supported_precision
from core.models.captioner.naming import read_namer
from core.models.captioner.rerank import read_probe
from core.models.captioner.settings import Decoding
from core.models.spec import ModelSpec, Precision, TextEncoder

_log = logging.getLogger(__name__)


class InstructBlipCaptioner(GeneratingCaptioner):
    """Writes captions with an ``InstructBlipForConditionalGeneration`` checkpoint.

    The constructor is cheap: weights are read by the first :meth:`caption` or :meth:`load`.

    Args:
        spec: Which checkpoint. Its precision is what is used where the device supports it:
            ``int8`` and ``bf16`` need CUDA (``int8`` also bitsandbytes, else bf16), a CPU runs
            fp32.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: Prompt and search; None takes what the checkpoint asks for in ``twolens.json``.
        precision: Exactly this precision, on any device, instead of the above.
        sentence: Embeds captions, so that a checkpoint with a probe can choose among its
            own; None takes the likeliest one.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        precision: Precision | None = None,
        sentence: TextEncoder | None = None,
    ) -> None:
        """Remember what to load; load nothing."""
        super().__init__(spec, device=device, decoding=decoding, sentence=sentence)
        self._precision = precision

    def class_tokens(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return what the image tower says of each RGB image as a whole, float32 (n, width)."""
        return self._encode(self.load(), images).class_tokens()

    def _load(self) -> Loaded:
        from core.models.devices import keep_freed_memory, resolve_device
        from core.models.eight_bit import linears_to_8_bits, products_run_in_8_bits

        device = resolve_device(self._device)
        precision = self._precision or supported_precision(self.spec.precision, device)
        _log.info("loading %s in %s on %s", self.spec.name, precision, device)
        model, processor = read_instructblip(self.spec, device, precision)
        decoding = self._decoding or decoding_of(self.spec)
        if device == "cpu" and precision == "fp32":
            keep_freed_memory()
            if decoding.image_precision == "int8" and products_run_in_8_bits():
                linears_to_8_bits(model.vision_model)
        probe = read_probe(self.spec, self._sentence.spec) if self._sentence else None
        if probe is not None:
            probe.require_width(model.config.vision_config.hidden_size)
        return Loaded(
            model=model,
            processor=processor,
            device=device,
            decoding=decoding,
            suppressed=model.generation_config.suppress_tokens,
            probe=probe,
            namer=read_namer(self.spec, device),
        )

    def _prompt(self, loaded: Loaded, prompt: str, count: int) -> dict[str, Any]:
        with loaded.tokenizing:
            if prompt not in loaded.prompts:
                # With an image, for only then does the processor put the image tokens first.
                tokens = loaded.processor(
                    images=[Image.new("RGB", (8, 8))], text=[prompt], return_tensors="pt"
                ).to(loaded.device)
                del tokens["pixel_values"]
                loaded.prompts[prompt] = dict(tokens)
            known = loaded.prompts[prompt]
        asked = {name: tokens.expand(count, -1) for name, tokens in known.items()}
        return {**asked, "suppress_tokens": loaded.suppressed}

    def _text_model(self, loaded: Loaded) -> Any:  # noqa: ANN401 - transformers' own
        return loaded.model.language_model
