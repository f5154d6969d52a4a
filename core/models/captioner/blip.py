"""BLIP as a captioner, in float32: for hosts with no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from core.models.captioner.base import EncodedImages, GeneratingCaptioner, Loaded
from core.models.captioner.decoding import Written
from core.models.captioner.loading import read_blip
from core.models.captioner.settings import Decoding, read_decoding

BLIP_DECODING = Decoding(
    prompt="",
    retry_prompt="",
    num_beams=3,
    min_new_tokens=5,
    max_new_tokens=30,
    repetition_penalty=1.0,
)
"""BLIP's authors' search for captions."""


class BlipCaptioner(GeneratingCaptioner):
    """Writes captions with a ``BlipForConditionalGeneration`` checkpoint, in float32.

    A tenth of InstructBLIP's work, for hosts with no GPU. It takes no instruction; the retry
    differs by its search alone. The constructor is cheap, as above.

    Args:
        spec: Which checkpoint; one without safetensors is refused.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: Search; None takes what the checkpoint asks for in ``twolens.json``, or BLIP's
            own defaults. Prompts are not used.
    """

    def _load(self) -> Loaded:
        from core.models.devices import resolve_device

        device = resolve_device(self._device)
        model, processor, folder = read_blip(self.spec)
        decoding = self._decoding or read_decoding(folder, BLIP_DECODING)
        return Loaded(model.to(device).eval(), processor, device, decoding)

    def _written(
        self,
        loaded: Loaded,
        encoded: EncodedImages,
        decoding: Decoding,
        *,
        given: Sequence[Sequence[int]] = (),
        **search: object,
    ) -> list[Written]:
        unprompted = replace(decoding, prompt="")
        return super()._written(loaded, encoded, unprompted, given=given, **search)

    def _prompt(self, loaded: Loaded, prompt: str, count: int) -> dict[str, Any]:
        return {}

    def _text_model(self, loaded: Loaded) -> Any:  # noqa: ANN401 - transformers' own
        return loaded.model.text_decoder
