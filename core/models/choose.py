"""Which captioner (a checkpoint or a LoRA adapter) or CLIP model a path or a Hub id means."""

from __future__ import annotations

from dataclasses import replace

from core.errors import ModelError, ModelNotFoundError
from core.models.captioner.lora import ADAPTER_CONFIG, adapter_folder, base_of
from core.models.clip.towers import find_clip_files, image_precision, tower_owner
from core.models.locate import HUB_ID, files_of, local_folder, located
from core.models.profiles import PROFILES, Profile
from core.models.spec import ModelSpec, Precision

_LARGE_BYTES = 2_000_000_000
"""Weights of a checkpoint from which on 8 bits are worth their loss."""


def with_captioner(profile: Profile, given: str | None) -> Profile:
    """Return the profile with the captioner that was asked for, or with its own for None.

    Raises:
        ModelError: See :func:`captioner_spec`.
    """
    return profile if given is None else replace(profile, captioner=captioner_spec(given))


def captioner_spec(given: str) -> ModelSpec:
    """Describe the captioner that is meant, at a pinned revision; loads no weights.

    Args:
        given: A folder, ``asset:NAME``, or a Hub id, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``. A
            Hub id without a commit is pinned to the commit that it has now.

    Raises:
        ModelNotFoundError: There is no such folder, and no such repository that can be reached.
        ModelError: An adapter that does not name its base, or names another adapter.
    """
    known = [profile.captioner for profile in PROFILES.values()]
    spec = located(given, known)
    if spec in known:
        return spec
    folder = files_of(spec, ADAPTER_CONFIG)
    if not (folder / ADAPTER_CONFIG).is_file():
        return _with_precision(spec)
    base_name, base_revision = base_of(adapter_folder(spec), spec.name)
    if base_revision and "@" not in base_name and HUB_ID.match(base_name):
        base_name += f"@{base_revision}"
    try:
        base = _with_precision(located(base_name, known))
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            base_name, f"The adapter {spec.name} was trained on it and needs it."
        ) from error
    if (files_of(base, ADAPTER_CONFIG) / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec.name} is an adapter of an adapter, which cannot be loaded.")
    return replace(spec, base=base, precision=base.precision, licence=base.licence, note=base.note)


def _with_precision(spec: ModelSpec) -> ModelSpec:
    folder = local_folder(spec)
    if folder is None:
        return replace(spec, precision="int8")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    precision: Precision = "int8" if size > _LARGE_BYTES else "fp32"
    return replace(spec, precision=precision)


def with_matcher(profile: Profile, given: str | None) -> Profile:
    """Return the profile with the reranker that was asked for, or with its own for None.

    Raises:
        ModelNotFoundError: There is no such folder or repository.
    """
    return profile if given is None else replace(profile, matcher=located(given))


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
    return replace(spec, dim=dim, precision=image_precision(files), base=tower_owner(files))
