"""What a Space is told on the Hub beside its files: galleries, models to preload, variables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import ProfileName
from core.errors import GalleryError, HubError
from core.gallery.hub_copy import HubGallery, commit_of, is_on_hub
from core.gallery.layout import MANIFEST_FILE
from core.gallery.manifest import Manifest
from precompute.hub.space_files import Space, hub_models, preload_lines

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_GALLERIES = "TWOLENS_GALLERIES"


def pinned_galleries(
    given: list[str], profile: ProfileName, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Return references to galleries with the commits that they have now.

    Args:
        given: ``hf:OWNER/NAME[@REVISION]`` each.
        profile: The models that will search them.
        say: Is told what the operator must do.

    Raises:
        HubError: A folder, no such gallery, or one of another profile.
    """
    pinned = []
    for reference in given:
        if not is_on_hub(reference):
            raise HubError(
                f"{reference} is not on the Hub, where the Space would look for it. First: "
                f"python -m precompute publish gallery {reference} OWNER/NAME"
            )
        wanted = HubGallery.parse(reference)
        commit = commit_of(wanted)
        if commit != wanted.revision:
            say(f"{reference} is commit {commit} now.")
        _check_gallery(wanted, commit, profile, say)
        pinned.append(wanted.at(commit))
    return tuple(pinned)


def _check_gallery(
    wanted: HubGallery, commit: str, profile: ProfileName, say: Callable[[str], None]
) -> None:
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        path = Path(
            hf_hub_download(wanted.repository, MANIFEST_FILE, repo_type="dataset", revision=commit)
        )
        built_by = Manifest.parse(path.parent, path.read_bytes()).profile
        private = HfApi().dataset_info(wanted.repository, revision=commit).private
    except (OSError, ValueError, errors.HTTPError, GalleryError) as error:
        reason = " ".join(str(error).split())[:150]
        raise HubError(f"{wanted.at(commit)} cannot be read as a gallery ({reason}).") from error
    if built_by != profile:
        raise HubError(
            f"{wanted.at(commit)} was built by the profile {built_by}; give --profile {built_by}."
        )
    if private:
        say(
            f"{wanted.repository} is private: give the Space a secret HF_TOKEN that may read it, "
            "in its settings."
        )


def preloaded(space: Space, say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the lines of ``preload_from_hub``; none, and a word, where the Hub does not answer."""
    from huggingface_hub import HfApi, errors

    try:
        files = {
            name: HfApi().list_repo_files(name, revision=spec.revision)
            for spec in hub_models(space)
            for name in [spec.source.removeprefix("hub:")]
        }
    except (OSError, errors.HTTPError) as error:
        say(
            "The files of the models cannot be listed "
            f"({' '.join(str(error).split())[:150]}): the Space will fetch them when it starts."
        )
        return ()
    return preload_lines(space, files)


def configure(space: Space, say: Callable[[str], None]) -> Callable[[HfApi, str], None]:
    """Return what sets hardware and variables of a Space that was there before.

    A token of a trusted publisher may write files alone: the settings then stay, and that is said.
    """
    from huggingface_hub import errors

    def apply(hub: HfApi, name: str) -> None:
        try:
            _set_variables(hub, name, space.variables)
            runtime = hub.get_space_runtime(name)
            if space.hardware not in (runtime.hardware, runtime.requested_hardware):
                hub.request_space_hardware(name, space.hardware)  # type: ignore[arg-type]
        except errors.HfHubHTTPError as error:
            if error.response is None or error.response.status_code not in (401, 403):
                raise
            say(f"This token may not change settings of {name}: hardware and variables stay.")

    return apply


def _set_variables(hub: HfApi, name: str, wanted: dict[str, str]) -> None:
    known = {key: each.value for key, each in hub.get_space_variables(name).items()}
    if _GALLERIES in known.keys() - wanted.keys():
        hub.delete_space_variable(name, _GALLERIES)
    for key, value in wanted.items():
        if known.get(key) != value:
            hub.add_space_variable(name, key, value)
