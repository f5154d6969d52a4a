"""The command ``publish``: a captioner, an adapter or a CLIP model to the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import HubError, ModelError, SourceError
from core.models.locate import MODEL_FILES
from core.quiet import quiet_libraries

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

_CARD = "README.md"


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
    from core.models.captioner.adapters import ADAPTER_CONFIG
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
    if (folder / _CARD).is_file():
        files[_CARD] = folder / _CARD
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
    with _reaching_the_hub(repository):
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
        if isinstance(file, RepoFile) and _is_same(file, what.files[file.path])
    }
    changed = sorted(set(what.files) - same)
    if changed:
        raise HubError(
            f"{len(changed)} files did not arrive in {repository} as they are here, {changed[0]} "
            "among them. Publish again."
        )
    return str(commit)


def _is_same(there: RepoFile, here: Path) -> bool:
    """Compare hashes: git's of a small file, sha256 of a large one."""
    from core.files import sha256_of

    if there.lfs is not None:
        return bool(there.lfs.sha256 == sha256_of(here))
    content = here.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return bool(there.blob_id == blob.hexdigest())


@contextmanager
def _reaching_the_hub(repository: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise HubError(
            "Publishing needs the Hugging Face Hub, and HF_HUB_OFFLINE is set."
        ) from error
    except (errors.LocalTokenNotFoundError, errors.RepositoryNotFoundError) as error:
        raise HubError(_signed_out(repository)) from error
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise HubError(_signed_out(repository)) from error
        raise HubError(f"The Hub refuses {repository}: {error.server_message or error}.") from error
    except errors.HFValidationError as error:
        raise HubError(f"{repository!r} is no name of a repository: give OWNER/NAME.") from error
    except (OSError, RuntimeError, errors.HTTPError) as error:
        raise HubError(f"{repository} could not be published ({error}). Do it again.") from error


def _signed_out(repository: str) -> str:
    return (
        f"You may not write to {repository}. Sign in by hf auth login with a token that may write, "
        "or set HF_TOKEN."
    )


def run(
    folder: Annotated[
        Path, typer.Argument(help="Of a captioner, an adapter or an open_clip model.")
    ],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="For everybody to see, if the repository is new.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and list what would be published.")
    ] = False,
) -> None:
    """Put a model onto the Hugging Face Hub, and print its id with the commit.

    By that id others load a captioner with --captioner, and a CLIP model with --clip.
    """
    quiet_libraries(downloads=False)
    what = publication(folder)
    size = sum(path.stat().st_size for path in what.files.values())
    amount = f"{len(what.files)} files, {size / 1e6:.1f} MB"
    if _CARD not in what.files:
        typer.echo(f"{folder} has no {_CARD}: nobody will know its data and licence.", err=True)
    if dry_run:
        for name, path in sorted(what.files.items()):
            typer.echo(f"{path.stat().st_size:>13,}  {name}")
        typer.echo(f"{amount}, would be published as {repository}.")
        return
    pinned = f"{repository}@{publish(what, repository, private=not public, message=message)}"
    typer.echo(f"{amount}, published as {pinned}.")
    typer.echo(f"Use it: python app.py {what.option} {pinned}")
