"""Which model a path or a Hub id means, at a pinned revision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from core.errors import ModelNotFoundError
from core.models.spec import ModelSpec
from core.models.weights import local_folder

HUB_ID = re.compile(r"\A(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?\Z", re.ASCII)

_COMMIT = re.compile(r"\A[0-9a-f]{40}\Z")
_TIMEOUT_S = 15


def located(given: str, known: Iterable[ModelSpec] = ()) -> ModelSpec:
    """Return the model that is meant; loads no weights.

    Args:
        given: A folder, ``asset:NAME``, or a Hub id, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``. A
            Hub id without a commit is pinned to the commit that it has now.
        known: Models that are returned as they are if it is one of them that is meant.

    Raises:
        ModelNotFoundError: There is no such folder, and no such repository that can be reached.
    """
    for spec in known:
        hub_id = spec.source.partition(":")[2]
        if given == spec.source or (
            spec.revision and given in (hub_id, f"{hub_id}@{spec.revision}")
        ):
            return spec
    kind, _, rest = given.partition(":")
    if kind in ("asset", "path") and rest:
        spec = ModelSpec(Path(rest).name, given, licence="not stated")
        local_folder(spec)
        return spec
    folder = Path(given).expanduser()
    if folder.is_dir():
        where = folder.resolve()
        return ModelSpec(where.name, f"path:{where}", licence="not stated")
    found = HUB_ID.match(given.removeprefix("hub:"))
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
