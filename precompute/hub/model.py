"""Publishing a captioner, an adapter or a CLIP model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core.errors import HubError, ModelError, SourceError
from core.models.locate import MODEL_FILES
from precompute.hub.upload import CARD, is_same, reaching_the_hub


@dataclass(frozen=True, slots=True)
class Publication:
    """What there is to publish.

    Attributes:
        files: From a name in the repository to where it lies.
        option: Of ``app.py`` and ``build``, which takes the id of such a model.
        read: Patterns of all that a loader would read in the repository, published or not.
    """

    files: Mapping[str, Path]
    option: str
    read: tuple[str, ...]


def publication(folder: Path) -> Publication:
    """Find out what a folder holds, and refuse what could not be loaded from the Hub.

    Args:
        folder: Of an InstructBLIP checkpoint, a LoRA adapter or an open_clip model.

    Raises:
        SourceError: It is no such folder.
        ModelError: Weights are missing or damaged, or an adapter's base is a folder.
    """
    from core.models.captioner.lora import ADAPTER_CONFIG
    from core.models.clip.towers import CONFIG_NAME, HUB_WEIGHTS_NAME, LOCAL_WEIGHTS_NAME

    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}.")
    if (folder / CONFIG_NAME).is_file():
        files = {
            CONFIG_NAME: folder / CONFIG_NAME,
            HUB_WEIGHTS_NAME: folder / LOCAL_WEIGHTS_NAME,
        }
        option, read = "--clip", tuple(files)
    elif (folder / ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file():
        files = {
            path.relative_to(folder).as_posix(): path
            for pattern in MODEL_FILES
            for path in sorted(folder.glob(pattern))
        }
        _check_captioner(folder)
        option, read = "--captioner", MODEL_FILES
    else:
        raise SourceError(
            f"{folder} is neither a captioner, nor an adapter or an open_clip model: it has no "
            f"config.json, {ADAPTER_CONFIG} or {CONFIG_NAME}."
        )
    _check_weights(folder.name, [path for name, path in files.items() if _is_weights(name)])
    if (folder / CARD).is_file():
        files[CARD] = folder / CARD
    return Publication(files, option, read)


def _is_read(name: str, patterns: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return any(
        path.match(pattern) and path.parent == PurePosixPath(pattern).parent for pattern in patterns
    )


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _check_captioner(folder: Path) -> None:
    """Refuse a checkpoint without all of its shards, and an adapter whose base nobody else has."""
    from core.models.choose import captioner_spec
    from core.models.tensors import INDEX_NAME, weight_files

    spec = captioner_spec(str(folder))
    if spec.base is not None and spec.base.source.startswith("path:"):
        raise ModelError(
            f"The adapter {folder.name} belongs to a checkpoint in a folder of this machine, "
            f"{spec.base.name}, which nobody else has. Publish that one, and train on its id."
        )
    if (folder / INDEX_NAME).is_file():
        for path in weight_files(folder):
            if not path.is_file():
                raise ModelError(f"{folder.name} lacks {path.name}, a part of its weights.")


def _check_weights(name: str, files: list[Path]) -> None:
    from safetensors import SafetensorError, safe_open

    if not files:
        raise ModelError(f"{name} has no weights in safetensors, and no others are published.")
    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                file.keys()
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path.name} of {name} is missing or damaged: {error}.") from error


def publish(
    what: Publication, repository: str, *, private: bool = True, message: str | None = None
) -> str:
    """Put all files into a repository by one commit, and check there what arrived.

    A repository that does not exist is made. What a loader would read there and is not published
    any more is deleted. Doing it again uploads what has changed alone.

    Args:
        what: From :func:`publication`.
        repository: ``OWNER/NAME``.
        private: Whether a new repository is visible to its owner alone.
        message: Of the commit.

    Returns:
        The commit, 40 hex digits.

    Raises:
        HubError: The Hub cannot be reached, refuses, or has other bytes in the end.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile

    hub = HfApi()
    with reaching_the_hub(repository):
        hub.create_repo(repository, private=private, exist_ok=True)
        there = set(hub.list_repo_files(repository)) - set(what.files)
        stale = sorted(name for name in there if _is_read(name, what.read))
        commit = hub.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, path) for name, path in what.files.items()),
                *(CommitOperationDelete(name, is_folder=False) for name in stale),
            ],
            commit_message=message or "Publish by TwoLens",
        ).oid
        arrived = hub.get_paths_info(repository, list(what.files), revision=commit)
    same = {
        file.path
        for file in arrived
        if isinstance(file, RepoFile) and is_same(file, what.files[file.path])
    }
    changed = sorted(set(what.files) - same)
    if changed:
        raise HubError(
            f"{len(changed)} files did not arrive in {repository} as they are here, {changed[0]} "
            "among them. Publish again."
        )
    return str(commit)
