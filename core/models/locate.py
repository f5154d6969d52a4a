"""Which model a path or a Hub id means, where its files are, and what pins them."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from core.errors import ModelNotFoundError
from core.files import local_path, sha256_of
from core.models.spec import ModelSpec

HUB_ID = re.compile(r"\A(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?\Z", re.ASCII)

_COMMIT = re.compile(r"\A[0-9a-f]{40}\Z")
_TIMEOUT_S = 15

MODEL_FILES = (
    "*.safetensors",
    *("*.json", "*.jinja"),
    # Of tokenizers: word lists, merges, and what sentencepiece and its like keep.
    *("*.txt", "*.model", "*.spm", "*.vocab", "*.bpe", "*.tiktoken"),
    "qformer_tokenizer/*",
)
"""Of a model's folder or repository, what is read, and what its revision covers: nothing pickled,
nothing of its training."""

_NOT_READ = "metrics.json"
"""Matches a pattern all the same, and says how good a model is, not what it does."""

_TOWER_WEIGHTS = "model*.safetensors"
"""Of a captioner, what may belong to its image tower."""

ASSETS = Path(__file__).resolve().parents[2] / "assets"


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
    folder = local_path(given)
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


def local_folder(spec: ModelSpec) -> Path | None:
    """Return the folder that holds a model's files, or None if they live on the Hub.

    Raises:
        ModelNotFoundError: The package is not installed, or the folder does not exist.
    """
    kind, _, rest = spec.source.partition(":")
    if kind == "hub":
        return None
    if kind == "asset":
        folder = ASSETS / rest
    elif kind == "path":
        folder = Path(rest)
    else:
        module, _, inner = rest.partition("/")
        found = importlib.util.find_spec(module)
        if found is None or not found.submodule_search_locations:
            raise ModelNotFoundError(spec.name, "Install the packages of requirements.txt.")
        folder = Path(found.submodule_search_locations[0]) / inner
    if not folder.is_dir():
        raise ModelNotFoundError(spec.name, f"Its folder {rest} does not exist.")
    return folder


def files_of(spec: ModelSpec, *names: str) -> Path:
    """Return the folder with a model's small files; what lives on the Hub is fetched first.

    Args:
        spec: Whose files.
        names: Which files; one that the Hub does not have is left out.

    Raises:
        ModelNotFoundError: The folder does not exist, or the Hub cannot be reached.
    """
    folder = local_folder(spec)
    if folder is not None:
        return folder
    return _fetched(spec, names)


@lru_cache(maxsize=32)
def _fetched(spec: ModelSpec, names: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download

    repository = spec.source.partition(":")[2]
    try:
        return Path(
            snapshot_download(repository, revision=spec.revision, allow_patterns=list(names))
        )
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise ModelNotFoundError(
            spec.name,
            "Check its name and the connection to the Hugging Face Hub, or use the profile mini.",
        ) from error


def hub_files(spec: ModelSpec, *names: str) -> list[Path]:
    """Return files of a model of the Hub, fetched unless they are cached.

    Raises:
        ModelNotFoundError: One is neither cached nor to be had.
    """
    from huggingface_hub import hf_hub_download

    repository = spec.source.removeprefix("hub:")
    try:
        return [Path(hf_hub_download(repository, n, revision=spec.revision)) for n in names]
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(spec.name, hub_remedy(spec)) from error


def hub_remedy(spec: ModelSpec) -> str:
    """Return what to do about a model of the Hub that is neither cached nor reachable."""
    repository = spec.source.removeprefix("hub:")
    revision = f" --revision {spec.revision}" if spec.revision else ""
    return (
        f"Fetch it where the Hub can be reached with: hf download {repository}{revision}, "
        "or use the profile mini."
    )


@lru_cache(maxsize=32)
def revision_of(spec: ModelSpec) -> str:
    """Return what pins a model: a Hub commit, or a digest of its local files.

    The digest covers the names and contents of the folder's :data:`MODEL_FILES`, tokenizers
    included, so a retrained checkpoint, or one that reads its words otherwise, never passes for
    the one that built a gallery. A model with a base is
    pinned together with it; a CLIP model with the weights alone of the captioner whose image tower
    it uses, for how that captions is nothing to it.
    """
    if spec.base is not None:
        own = revision_of(replace(spec, base=None))
        owner = local_folder(spec.base) if spec.dim is not None else None
        return f"{own}+{_digest(owner, _TOWER_WEIGHTS) if owner else revision_of(spec.base)}"
    folder = local_folder(spec)
    if folder is None:
        return spec.revision or "main"
    return _digest(folder, *MODEL_FILES)


def _digest(folder: Path, *patterns: str) -> str:
    found = {path.relative_to(folder).as_posix(): path for p in patterns for path in folder.glob(p)}
    digest = hashlib.sha256()
    for name in sorted(found):
        hidden = found[name].name.startswith(".")
        if not hidden and name != _NOT_READ and found[name].is_file():
            digest.update(f"{name}:{sha256_of(found[name])}\n".encode())
    return digest.hexdigest()[:16]
