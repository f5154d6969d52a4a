"""Putting a folder onto the Hub by ``upload_folder``, and checking there what arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import HubError
from core.files import sha256_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

CARD = "README.md"
_FILES_A_QUESTION = 500

Kind = Literal["dataset", "space"]


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository that belongs to what is published, whole: all else in it is deleted.

    Attributes:
        name: ``OWNER/NAME``.
        kind: Of the repository.
        marker: File by which a repository of before is known to hold the same kind of thing.
        holds: What that is, for people.
        private: Whether a new repository is visible to its owner alone.
        sdk: Of a new Space.
        hardware: Of a new Space.
        variables: Of a new Space.
    """

    name: str
    kind: Kind
    marker: str
    holds: str
    private: bool
    sdk: str | None = None
    hardware: str | None = None
    variables: Mapping[str, str] | None = None


def upload_tree(
    folder: Path,
    to: Destination,
    message: str,
    before: Callable[[HfApi, str], None] = lambda hub, name: None,
) -> str:
    """Make a repository hold exactly the files of a folder, and check what arrived.

    What was broken off is begun again by the same call; what has arrived is not sent again.

    Args:
        folder: May hold links to files.
        to: Where; made if it does not exist.
        message: Of the commit.
        before: Is called with the repository's name once it is there and before files come.

    Returns:
        The commit, 40 hex digits.

    Raises:
        HubError: The Hub cannot be reached, refuses, or has other bytes in the end; the
            repository holds something else; a file changed meanwhile.
    """
    from huggingface_hub import HfApi, RepoFile

    hub = HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    hashes = {name: _hashes(path) for name, path in files.items()}
    with _noticing_changes(files, hashes), reaching_the_hub(to.name):
        _make(hub, to)
        there = set(hub.list_repo_files(to.name, repo_type=to.kind))
        others = there - {CARD, ".gitattributes"}
        if others and to.marker not in there:
            raise HubError(
                f"The {to.kind} {to.name} exists and holds no {to.holds}: {sorted(others)[0]} is "
                "in it. Choose another name, or delete it on the Hub."
            )
        before(hub, to.name)
        commit = _upload(hub, folder, to, message)
        names = sorted(files)
        arrived = [
            file
            for first in range(0, len(names), _FILES_A_QUESTION)
            for file in hub.get_paths_info(
                to.name,
                names[first : first + _FILES_A_QUESTION],
                repo_type=to.kind,
                revision=commit,
            )
        ]
    known = {file.path: _hash_there(file) for file in arrived if isinstance(file, RepoFile)}
    changed = sorted(name for name in files if known.get(name) not in hashes[name])
    if changed:
        raise HubError(
            f"{changed[0]} did not arrive in {to.name} as it was when publishing began: it changed "
            f"on the way ({len(changed)} files did). Publish again."
        )
    return commit


@contextmanager
def _noticing_changes(
    files: Mapping[str, Path], hashes: Mapping[str, tuple[str, str]]
) -> Iterator[None]:
    """Name the file that changed where that may be why the Hub did not take it."""
    try:
        yield
    except HubError as error:
        for name, path in files.items():
            if not path.is_file() or _hashes(path) != hashes[name]:
                raise HubError(f"{name} changed while it was published. Publish again.") from error
        raise


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _make(hub: HfApi, to: Destination) -> None:
    variables = [{"key": key, "value": value} for key, value in (to.variables or {}).items()]
    hub.create_repo(
        to.name,
        repo_type=to.kind,
        private=to.private,
        exist_ok=True,
        space_sdk=to.sdk,
        space_hardware=to.hardware,  # type: ignore[arg-type]  # the client takes its name too
        space_variables=variables or None,
    )


def _upload(hub: HfApi, folder: Path, to: Destination, message: str) -> str:
    from huggingface_hub import constants

    def upload() -> str:
        return str(
            hub.upload_folder(
                repo_id=to.name,
                repo_type=to.kind,
                folder_path=folder,
                delete_patterns="*",
                commit_message=message,
            ).oid
        )

    try:
        return upload()
    except Exception:
        if constants.HF_HUB_DISABLE_XET or not _xet_is_missing(hub, to):
            raise
        constants.HF_HUB_DISABLE_XET = True  # a proxy, or an older server: over LFS then
        return upload()


def _xet_is_missing(hub: HfApi, to: Destination) -> bool:
    """Tell whether the Hub, which answers, has no Xet storage for a repository."""
    from huggingface_hub import get_session

    url = f"{hub.endpoint}/api/{to.kind}s/{to.name}/xet-write-token/main"
    return bool(get_session().get(url, headers=hub._build_hf_headers()).status_code == 404)


def _hashes(path: Path) -> tuple[str, str]:
    """Return what the Hub may call a content: git's hash of a small file, sha256 of a large one."""
    return git_hash(path), sha256_of(path)


def git_hash(path: Path) -> str:
    """Return git's hash of a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_there(file: RepoFile) -> str:
    return str(file.lfs.sha256 if file.lfs is not None else file.blob_id)


def is_same(there: RepoFile, here: Path) -> bool:
    """Tell whether a file of a repository has the content of one on this machine."""
    return _hash_there(there) in _hashes(here)


@contextmanager
def reaching_the_hub(repository: str) -> Iterator[None]:
    """Turn what the client raises into one sentence about a repository."""
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
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise HubError(f"{repository} could not be published ({reason}). Do it again.") from error


def _signed_out(repository: str) -> str:
    return (
        f"You may not write to {repository}. Sign in by hf auth login with a token that may write, "
        "or set HF_TOKEN."
    )
