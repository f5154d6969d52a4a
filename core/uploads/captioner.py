"""Which captioner describes uploads, and on what hardware."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from core.errors import ModelNotFoundError
from core.models.captioner.blip import BlipCaptioner
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import require_safetensors
from core.models.devices import resolve_device
from core.models.locate import local_folder, located
from core.models.profiles import PROFILES
from core.models.spec import Captioner, ModelSpec, TextEncoder
from core.uploads.zero_gpu import FIRST_SECONDS_AN_IMAGE, RentedCaptioner

if TYPE_CHECKING:
    from core.config import Settings
    from core.models.profiles import Profile

_MINI = PROFILES["mini"].captioner


def first_guess_s(captioner: Captioner, device: str) -> float:
    """Return the seconds that a photo may take, for the first visitor's estimate.

    Args:
        captioner: What describes uploads.
        device: As in the settings.
    """
    if isinstance(captioner, RentedCaptioner):
        return FIRST_SECONDS_AN_IMAGE
    on_cpu = resolve_device(device) == "cpu"
    if isinstance(captioner, BlipCaptioner):
        return 2.5 if on_cpu else 1.0
    if not captioner.spec.source.startswith("hub:"):
        return 0.5
    return 30.0 if on_cpu else 1.0


def upload_captioner(
    profile: Profile, settings: Settings, own: Captioner, sentence: TextEncoder | None = None
) -> Captioner:
    """Return the captioner of uploads.

    Args:
        profile: The models that answer.
        settings: ``upload_captioner``, ``device`` and ``zero_gpu`` decide.
        own: The profile's own captioner, shared with whatever else uses it.
        sentence: Lets another captioner choose among its captions, if it has a probe.

    Raises:
        ModelError: The captioner that the settings name is not there, or has no safetensors.
    """
    if settings.zero_gpu and importlib.util.find_spec("spaces") is not None:
        import spaces

        # bf16: T5 wants it, the rented GPU has the room, and 8 bits are no faster there.
        full = InstructBlipCaptioner(
            profile.captioner, device="cuda", precision="bf16", sentence=sentence
        )
        return RentedCaptioner(full, spaces.GPU)
    choice = settings.upload_captioner
    if choice == "auto" and settings.captioner is not None:
        choice = "profile"
    if choice == "auto":
        from_hub = profile.captioner.source.startswith("hub:")
        choice = "mini" if from_hub and resolve_device(settings.device) == "cpu" else "profile"
    if choice == "profile" or (choice == "mini" and profile.captioner == _MINI):
        return own
    if choice == "mini":
        return InstructBlipCaptioner(_MINI, device=settings.device, sentence=sentence)
    return BlipCaptioner(_blip_in(choice), device=settings.device)


def _blip_in(folder: str) -> ModelSpec:
    spec = located(folder)
    found = local_folder(spec)
    if found is None:
        raise ModelNotFoundError(
            folder, "TWOLENS_UPLOAD_CAPTIONER is auto, profile, mini, or a folder with BLIP."
        )
    require_safetensors(spec.name, found)
    return spec
