"""Galleries of the Hugging Face Hub: a verified copy of one commit, in a folder of this machine."""

from __future__ import annotations

import glob
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import get_settings
from core.errors import CorruptGalleryError, GalleryError, HubError, ManifestMismatchError
from core.gallery.figures.metrics_file import METRICS_FILE
from core.gallery.folder import GalleryFolder
from core.gallery.layout import LARGE_FOLDER, MANIFEST_FILE
from core.gallery.manifest import Manifest, read_manifest
from core.gallery.parts import check_files, is_mapped, read_pictures

if TYPE_CHECKING:
    from core.models.profiles import Profile

logger = logging.getLogger("twolens")

HUB_PREFIX = "hf:"
VIEWER_FOLDER = "data"
"""Of a published gallery: parquet files of the same rows, which the Hub's viewer shows."""

_REFERENCE = re.compile(
    r"\Ahf:(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?\Z",
    re.ASCII,
)
_COMMIT = re.compile(r"\A[0-9a-f]{40}\Z")
_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class HubGallery:
    """Which gallery of the Hub is meant.

    Attributes:
        owner: User or organisation.
        name: Of the dataset repository.
        revision: Commit, branch or tag; None is the newest commit.
    """

    owner: str
    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, reference: str) -> HubGallery:
        """Read ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.

        Raises:
            HubError: It is neither.
        """
        found = _REFERENCE.match(reference)
        if not found or ".." in reference:
            raise HubError(
                f"{reference!r} names no gallery of the Hub: give hf:OWNER/NAME@REVISION."
            )
        return cls(found["owner"], found["name"], found["revision"])

    @property
    def repository(self) -> str:
        """``OWNER/NAME``."""
        return f"{self.owner}/{self.name}"

    def at(self, commit: str) -> str:
        """Return the reference that means one commit for good."""
        return f"{HUB_PREFIX}{self.repository}@{commit}"


def is_on_hub(gallery: str) -> bool:
    """Tell a gallery of the Hub from a folder."""
    return gallery.startswith(HUB_PREFIX)


def local_copy(reference: str, cache_dir: Path, profile: Profile) -> Path:
    """Return the folder with a gallery of the Hub, fetched and verified unless it is there.

    Only files that its manifest names, but for large copies, and its figures are fetched. What was
    interrupted goes on. A copy that was damaged meanwhile is fetched again.

    Args:
        reference: ``hf:OWNER/NAME@REVISION``. What is not a full commit hash is looked up, and
            the log says which commit it is; where the Hub cannot be reached, the commit that it
            was last time is used, and the log says that too.
        cache_dir: The user's cache folder for this program.
        profile: The models that will search it.

    Raises:
        HubError: No such gallery, the Hub cannot be reached and there is no copy, or what is
            there is not what its manifest says, or was built by other models.
    """
    wanted = HubGallery.parse(reference)
    with _home(wanted, cache_dir) as home:
        commit = commit_of(wanted, home)
        pinned, folder = wanted.at(commit), home / commit / wanted.name
        if folder.is_dir():
            try:
                _check(folder, pinned, profile, get_settings().verify_up_to_bytes)
                return folder
            except _DamagedError as error:
                logger.warning("%s It is fetched again.", error)
                shutil.rmtree(folder)
        partial = _partial(home, commit)
        logger.info("fetching %s", pinned)
        _fetch(wanted, commit, partial, profile)
        folder.parent.mkdir(exist_ok=True)
        partial.rename(folder)
    return folder


def manifest_of(reference: str, cache_dir: Path, profile: Profile) -> Manifest:
    """Return the manifest of a gallery of the Hub; of all its files, no other is fetched.

    Args:
        reference: As for :func:`local_copy`, and so on.
        cache_dir: The user's cache folder for this program.
        profile: The models that will search it.

    Raises:
        HubError: As :func:`local_copy` does.
    """
    wanted = HubGallery.parse(reference)
    with _home(wanted, cache_dir) as home:
        commit = commit_of(wanted, home)
        folder = home / commit / wanted.name
        if not folder.is_dir():
            folder = _partial(home, commit)
            with _refusals(wanted, commit):
                _snapshot(wanted, commit, folder, MANIFEST_FILE)
        return _manifest(folder, wanted.at(commit), profile)


def copy_on_disk(reference: str, cache_dir: Path) -> Path | None:
    """Return the folder of a copy that is on this machine, unverified; None if there is none.

    Nobody is asked: of a branch or a tag it is the commit of last time.
    """
    wanted = HubGallery.parse(reference)
    home = _home_of(wanted, cache_dir)
    commit = wanted.revision or ""
    if not _COMMIT.match(commit):
        try:
            commit = _remembered(home, wanted).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    folder = home / commit / wanted.name
    return folder if _COMMIT.match(commit) and folder.is_dir() else None


def _home_of(wanted: HubGallery, cache_dir: Path) -> Path:
    return cache_dir / "hub" / f"{wanted.owner}--{wanted.name}"


@contextmanager
def _home(wanted: HubGallery, cache_dir: Path) -> Iterator[Path]:
    """Hold the folder of a repository's copies: no other process changes it meanwhile."""
    from filelock import FileLock

    home = _home_of(wanted, cache_dir)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        yield home


def _partial(home: Path, commit: str) -> Path:
    return home / f".{commit}.partial"


def _remembered(home: Path, wanted: HubGallery) -> Path:
    return home / "commits" / (wanted.revision or "main").replace("/", "--")


def commit_of(wanted: HubGallery, home: Path | None = None) -> str:
    """Return the commit that a gallery's revision is, 40 hex digits.

    Args:
        wanted: Which gallery.
        home: Where the commit of last time is remembered; None forgets it.

    Raises:
        HubError: There is no such repository or revision, or the Hub cannot be reached and
            nothing is remembered.
    """
    if wanted.revision and _COMMIT.match(wanted.revision):
        return wanted.revision
    from huggingface_hub import HfApi, errors

    named = wanted.revision or "main"
    remembered = _remembered(home, wanted) if home else None
    try:
        found = HfApi().dataset_info(
            wanted.repository, revision=wanted.revision, timeout=_TIMEOUT_S
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _absent(wanted) from error
    except (OSError, errors.HTTPError) as error:
        if remembered is None or not remembered.is_file():
            raise _unreachable(f"{HUB_PREFIX}{wanted.repository}", error) from error
        commit = remembered.read_text(encoding="ascii").strip()
        if not _COMMIT.match(commit):
            raise _unreachable(f"{HUB_PREFIX}{wanted.repository}", error) from error
        logger.warning(
            "The Hugging Face Hub cannot be reached (%s); %s is served from the copy of commit %s, "
            "which may not be the newest.",
            _reason(error),
            wanted.repository,
            commit,
        )
        return commit
    commit = str(found.sha)
    if remembered is not None:
        remembered.parent.mkdir(exist_ok=True)
        remembered.write_text(commit, encoding="ascii")
        logger.info(
            "%s of %s is commit %s; to pin it: --gallery %s",
            *(named, wanted.repository, commit, wanted.at(commit)),
        )
    return commit


class _DamagedError(HubError):
    """A file is not the one that the manifest describes."""


def _fetch(wanted: HubGallery, commit: str, into: Path, profile: Profile) -> None:
    pinned = wanted.at(commit)
    with _refusals(wanted, commit):
        try:
            _snapshot(wanted, commit, into, MANIFEST_FILE)
            names = published(_manifest(into, pinned, profile))
            _snapshot(wanted, commit, into, *map(glob.escape, (*names, METRICS_FILE)))
            _check(into, pinned, profile, verify_up_to=None)
        except _DamagedError:
            shutil.rmtree(into)  # what is put right there must not meet what was wrong here
            raise
    shutil.rmtree(into / ".cache", ignore_errors=True)


def _snapshot(wanted: HubGallery, commit: str, into: Path, *patterns: str) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        wanted.repository,
        repo_type="dataset",
        revision=commit,
        local_dir=into,
        allow_patterns=list(patterns),
    )


@contextmanager
def _refusals(wanted: HubGallery, commit: str) -> Iterator[None]:
    """Turn what the client raises into one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _absent(wanted) from error
    except (OSError, ValueError, errors.HTTPError) as error:
        raise _unreachable(wanted.at(commit), error) from error


def _manifest(folder: Path, pinned: str, profile: Profile) -> Manifest:
    try:
        manifest = Manifest.parse(folder, read_manifest(GalleryFolder(folder)))
        manifest.check_models(folder, profile)
    except ManifestMismatchError as error:
        raise HubError(
            f"{pinned} was built by other models: {error.field} is {error.found!r}, but "
            f"{error.expected!r} answers here. Start with the profile and the --clip that built it."
        ) from error
    except CorruptGalleryError as error:
        raise _DamagedError(_said(pinned, error.what)) from error
    except GalleryError as error:
        raise HubError(f"{pinned} is no gallery: it has no {MANIFEST_FILE}.") from error
    return manifest


def published(manifest: Manifest) -> list[str]:
    """Return which of a gallery's files a repository holds: all but the large copies."""
    return [name for name in manifest.files if not name.startswith(f"{LARGE_FOLDER}/")]


def _check(folder: Path, pinned: str, profile: Profile, verify_up_to: int | None) -> None:
    """Check a copy, whole or, where it is larger than so many bytes, by the sizes of its files."""
    manifest = _manifest(folder, pinned, profile)
    held = GalleryFolder(folder)
    mapped = verify_up_to is not None and is_mapped(manifest, verify_up_to)
    try:
        check_files(held, manifest, mapped=mapped, read=False)
        read_pictures(held, manifest, mapped=True)
    except CorruptGalleryError as error:
        raise _DamagedError(_said(pinned, error.what)) from error


def _said(pinned: str, what: str) -> str:
    return f"{pinned} is not the gallery that was published: {what}."


def _absent(wanted: HubGallery) -> HubError:
    at = f" at {wanted.revision}" if wanted.revision else ""
    return HubError(
        f"There is no dataset {wanted.repository}{at} on the Hugging Face Hub that may be read "
        "here; a private one needs a token (HF_TOKEN)."
    )


def _unreachable(what: str, error: Exception) -> HubError:
    return HubError(
        f"{what} cannot be fetched from the Hugging Face Hub ({_reason(error)}), and there is no "
        "copy on this machine. Try again, or serve a folder."
    )


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return " ".join(str(error).split())[:150] or type(error).__name__
