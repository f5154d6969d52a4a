"""Which captioner a path or a Hub id means: a whole InstructBLIP checkpoint, or a LoRA adapter."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from core.adapters import ADAPTER_CONFIG, adapter_folder, base_of
from core.errors import ModelError, ModelNotFoundError
from core.models import ModelSpec, Precision
from core.profiles import PROFILES, Profile
from core.weights import files_of, local_folder

_HUB_ID = re.compile(r"\A(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?\Z", re.ASCII)
_COMMIT = re.compile(r"\A[0-9a-f]{40}\Z")
_TIMEOUT_S = 15
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
    spec = _located(given)
    folder = files_of(spec, ADAPTER_CONFIG)
    if not (folder / ADAPTER_CONFIG).is_file():
        return _with_precision(spec)
    base_name, base_revision = base_of(adapter_folder(spec), spec.name)
    if base_revision and "@" not in base_name and _HUB_ID.match(base_name):
        base_name += f"@{base_revision}"
    try:
        base = _with_precision(_located(base_name))
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            base_name, f"The adapter {spec.name} was trained on it and needs it."
        ) from error
    if (files_of(base, ADAPTER_CONFIG) / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec.name} is an adapter of an adapter, which cannot be loaded.")
    return replace(spec, base=base, precision=base.precision, licence=base.licence, note=base.note)


def _located(given: str) -> ModelSpec:
    for profile in PROFILES.values():
        known = profile.captioner
        if given in (known.source, f"{known.source.partition(':')[2]}@{known.revision}"):
            return known
    kind, _, rest = given.partition(":")
    if kind in ("asset", "path") and rest:
        spec = ModelSpec(Path(rest).name, given, licence="not stated")
        local_folder(spec)
        return spec
    folder = Path(given).expanduser()
    if folder.is_dir():
        where = folder.resolve()
        return ModelSpec(where.name, f"path:{where}", licence="not stated")
    found = _HUB_ID.match(given.removeprefix("hub:"))
    if not found:
        raise ModelNotFoundError(given, "It is neither a folder nor a Hugging Face id.")
    return ModelSpec(
        found["id"],
        f"hub:{found['id']}",
        licence="not stated",
        revision=_commit(found["id"], found["revision"]),
    )


def _commit(repository: str, revision: str | None) -> str:
    """Return the commit that a branch or tag has now; a commit stays as it is."""
    if revision and _COMMIT.match(revision):
        return revision
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(
            repository, f"Offline, name its commit too: {repository}@0123abc... (40 digits)."
        )
    try:
        found = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_S)
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise ModelNotFoundError(
            repository,
            "It is no folder, and no repository of the Hugging Face Hub by that name "
            "can be reached without signing in.",
        ) from error
    return str(found.sha)


def _with_precision(spec: ModelSpec) -> ModelSpec:
    folder = local_folder(spec)
    if folder is None:
        return replace(spec, precision="int8")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    precision: Precision = "int8" if size > _LARGE_BYTES else "fp32"
    return replace(spec, precision=precision)
