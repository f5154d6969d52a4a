"""The galleries that one running app serves, each with the service that searches it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import QueryError
from core.gallery.reader import Gallery
from core.models.profiles import Models, Profile
from core.models.spec import ModelSpec
from core.records import CORRECTED, ImageRecord
from core.search.service import SearchService


@dataclass(frozen=True, slots=True)
class ShelvedGallery:
    """One gallery as the page knows it.

    Attributes:
        name: What the selector shows; unique on the shelf.
        slug: The name in an address: lower-case letters, digits and hyphens; unique.
        version: Changes whenever the gallery's files do; makes thumbnails cacheable for good.
        gallery: The records and indexes.
        service: Searches the gallery.
    """

    name: str
    slug: str
    version: str
    gallery: Gallery
    service: SearchService

    def thumbnail_url(self, image_id: str) -> str:
        """Return the address of a thumbnail, relative to the page."""
        return f"thumbnails/{self.slug}/{image_id}.webp?v={self.version}"

    @property
    def source_id(self) -> str:
        """Name of what the gallery was built from."""
        return self.gallery.manifest.source.id

    def other_captioner(self, captioner: ModelSpec) -> str | None:
        """Return who wrote the captions, if a model did and it is not this one at its revision."""
        manifest = self.gallery.manifest
        if manifest.captioner is None or manifest.captioned_by(captioner):
            return None
        return manifest.captioner.name

    def origin_of(self, record: ImageRecord) -> str:
        """Return who wrote a picture's caption, in words for the visitor."""
        if CORRECTED in record.caption_flags:
            return "Corrected by hand"
        given = self.gallery.manifest.caption_origin != "generated"
        return "Caption given by the source" if given else "Written by the captioner"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The galleries of a running app, in the order in which they were given.

    Attributes:
        profile: The models that answer.
        entries: The galleries; may be empty, which the page then says.
    """

    profile: Profile
    entries: tuple[ShelvedGallery, ...] = ()
    _by_name: dict[str, ShelvedGallery] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Index the entries by name and slug."""
        for entry in self.entries:
            self._by_name.setdefault(entry.slug, entry)
        for entry in self.entries:
            self._by_name[entry.name] = entry

    @classmethod
    def open(
        cls, folders: Iterable[Path], profile: Profile, models: Models, *, max_query_chars: int
    ) -> Shelf:
        """Open and verify gallery folders.

        Args:
            folders: Gallery folders; one given twice is served once.
            profile: The models that must have built them.
            models: The models that embed queries; nothing is loaded here.
            max_query_chars: Longest query that is answered.

        Raises:
            GalleryError: One of the folders cannot be served; the first such is reported.
        """
        entries: list[ShelvedGallery] = []
        seen: set[str] = set()
        for folder in folders:
            place = os.path.realpath(folder)
            if place in seen:
                continue
            seen.add(place)
            gallery = Gallery.open(folder, profile)
            names = {entry.name for entry in entries}
            slugs = {entry.slug for entry in entries}
            entries.append(
                ShelvedGallery(
                    name=_unique(gallery.name, names, " ({})"),
                    slug=_unique(_slug(gallery.name), slugs, "-{}"),
                    version=gallery.manifest.thumbnails_sha256[:12],
                    gallery=gallery,
                    service=SearchService(gallery, models, max_query_chars=max_query_chars),
                )
            )
        return cls(profile, tuple(entries))

    @property
    def names(self) -> list[str]:
        """Names of the galleries, in order."""
        return [entry.name for entry in self.entries]

    def entry(self, name: str | None = None) -> ShelvedGallery:
        """Return a gallery by its name or slug; the first one for None or "".

        Raises:
            QueryError: There is no gallery, or none of that name.
        """
        if not self.entries:
            raise QueryError("No gallery is loaded, so there is nothing to search.")
        if not name:
            return self.entries[0]
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise QueryError(f"There is no gallery called {str(name)[:40]!r}.")
        return found

    def warm_up(self) -> None:
        """Load both query encoders by embedding one short query with each.

        Raises:
            ModelError: An encoder cannot be loaded.
        """
        if self.entries:
            self.entries[0].service.compare("a photo", k=1)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gallery"


def _unique(name: str, taken: set[str], pattern: str) -> str:
    if name not in taken:
        return name
    number = 2
    while name + pattern.format(number) in taken:
        number += 1
    return name + pattern.format(number)
