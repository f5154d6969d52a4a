"""Which CLIP model a path or a Hub id means."""

from __future__ import annotations

from dataclasses import replace

from core.errors import ModelError
from core.models.clip.towers import find_clip_files, image_precision, lender_of
from core.models.locate import located
from core.models.profiles import PROFILES, Profile
from core.models.spec import ModelSpec


def with_clip(profile: Profile, given: str | None) -> Profile:
    """Return the profile with the CLIP model that was asked for, or with its own for None.

    Raises:
        ModelError: See :func:`clip_spec`.
    """
    return profile if given is None else replace(profile, clip=clip_spec(given))


def clip_spec(given: str) -> ModelSpec:
    """Describe the open_clip model that is meant, at a pinned revision; loads no weights.

    Args:
        given: See :func:`core.models.locate.located`.

    Raises:
        ModelNotFoundError: There is no such folder or repository, or no configuration in it.
        ModelError: The configuration names no dimension, or no known precision.
    """
    spec = located(given, [profile.clip for profile in PROFILES.values()])
    files = find_clip_files(spec)
    dim = files.model_cfg.get("embed_dim")
    if not isinstance(dim, int):
        raise ModelError(f"The configuration of {spec.name} has no embed_dim.")
    return replace(spec, dim=dim, precision=image_precision(files), base=lender_of(files))
