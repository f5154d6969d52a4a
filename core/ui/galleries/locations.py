"""Where a gallery is: in a folder of this machine, or on the Hugging Face Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.gallery.hub_copy import HubGallery, copy_on_disk, is_on_hub, local_copy, manifest_of
from core.gallery.manifest import Manifest
from core.models.profiles import Profile


class GalleryPlace(Protocol):
    """Where one gallery is. Nothing is read or fetched before it is asked for."""

    @property
    def title(self) -> str:
        """What to call the gallery while its manifest is not known."""
        ...

    @property
    def identity(self) -> str:
        """Equal for two places that are the same."""
        ...

    def manifest(self) -> Manifest:
        """Read the manifest, and no more than that.

        Raises:
            TwoLensError: There is none, or it cannot be had.
        """
        ...

    def folder(self) -> Path:
        """Return the folder of the gallery's files, which are fetched if need be.

        Raises:
            HubError: They cannot be had.
        """
        ...

    def folder_here(self) -> Path | None:
        """Return the folder if the files are on this machine already; nothing is verified."""
        ...


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A gallery in a folder.

    Attributes:
        path: The folder, as the operator gave it.
    """

    path: Path

    @property
    def title(self) -> str:
        """Its folder's name."""
        return self.path.resolve().name

    @property
    def identity(self) -> str:
        """Its real path."""
        return os.path.realpath(self.path)

    def manifest(self) -> Manifest:
        """Read the manifest; see :meth:`GalleryPlace.manifest`."""
        return Manifest.read(self.path)

    def folder(self) -> Path:
        """Return the folder, whether or not it is there."""
        return self.path

    def folder_here(self) -> Path | None:
        """Return the folder."""
        return self.path


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A gallery of the Hub, of which a verified copy is kept.

    Attributes:
        reference: ``hf:OWNER/NAME[@REVISION]``.
        cache_dir: The user's cache folder for this program.
        profile: The models that will search it.
    """

    reference: str
    cache_dir: Path
    profile: Profile

    @property
    def title(self) -> str:
        """Its repository's name."""
        return HubGallery.parse(self.reference).name

    @property
    def identity(self) -> str:
        """The reference."""
        return self.reference

    def manifest(self) -> Manifest:
        """Return the manifest of the copy, or of the Hub; see :meth:`GalleryPlace.manifest`."""
        return manifest_of(self.reference, self.cache_dir, self.profile)

    def folder(self) -> Path:
        """Return the copy's folder; see :func:`core.gallery.hub_copy.local_copy`."""
        return local_copy(self.reference, self.cache_dir, self.profile)

    def folder_here(self) -> Path | None:
        """Return the copy's folder if there is a copy."""
        return copy_on_disk(self.reference, self.cache_dir)


def place_of(gallery: str | Path, cache_dir: Path, profile: Profile) -> GalleryPlace:
    """Return where a gallery is that an operator named.

    Args:
        gallery: A folder, or ``hf:OWNER/NAME[@REVISION]``.
        cache_dir: Where copies from the Hub are kept.
        profile: The models that will search it.
    """
    if is_on_hub(str(gallery)):
        return HubPlace(str(gallery), cache_dir, profile)
    return FolderPlace(Path(gallery))
