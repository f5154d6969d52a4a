"""The galleries that one running app serves, each with the service that searches it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from core.errors import QueryError, TwoLensError, sentence_of
from core.gallery.layout import MANIFEST_FILE
from core.gallery.reader import Gallery
from core.models.match_threshold import match_threshold
from core.models.profiles import Models, Profile
from core.models.spec import ModelSpec
from core.records import CORRECTED, ImageRecord, Lens
from core.search.service import SearchResult, SearchService

logger = logging.getLogger("twolens")

_WARM_QUERY = "a photo"


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

    def large_url(self, image_id: str) -> str:
        """Return the address of a picture's large copy, relative to the page; "" for none."""
        if not self.gallery.has_large(image_id):
            return ""
        return f"large/{self.slug}/{image_id}.webp?v={self.version}"

    @property
    def public_slug(self) -> str:
        """What the endpoints know the gallery by; "" for pictures that they do not serve."""
        return self.slug

    @property
    def source_id(self) -> str:
        """Name of what the gallery was built from."""
        return self.gallery.manifest.source.id

    def score_range(self, lens: Lens) -> tuple[float, float] | None:
        """Return the scores between which a lens's bars run; None where they are not known."""
        return self._query_model(lens).score_range

    def matches_well(self, result: SearchResult | None) -> bool | None:
        """Tell whether a lens's best hit for some words is a match; None where that is not known.

        Args:
            result: Found by words; None if the lens failed.
        """
        if result is None or not result.hits or not result.plain:
            return None
        below = match_threshold(result.lens, self._query_model(result.lens))
        return None if below is None else result.hits[0].score >= below

    def _query_model(self, lens: Lens) -> ModelSpec:
        profile = self.service.models.profile
        return profile.sentence if lens == "captions" else profile.clip

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


class AwaitedGallery(Protocol):
    """A gallery that is being built, and then measured, while the app runs.

    Attributes:
        folder: Where it will be.
        total: Pictures that it will have.
        done: How many of them were described.
        trouble: Why it will not come, or "".
    """

    folder: Path
    total: int
    done: int
    trouble: str

    def build(self) -> None:
        """Build it, if it is not there.

        Raises:
            TwoLensError: It could not be built.
        """
        ...

    def measure(self) -> None:
        """Evaluate it, if it was not."""
        ...

    def stop(self) -> None:
        """End what builds or measures it, at once."""
        ...


class Shelf:
    """The galleries of a running app, in the order in which they were given.

    Attributes:
        profile: The models that answer.
        entries: The galleries; may be empty, which the page then says. An entry never changes:
            a gallery that was built anew is another one in its place.
        awaited: A gallery that is being built or measured; None if none is.
        when_replaced: Called after an entry was replaced or added.
    """

    def __init__(self, profile: Profile, entries: tuple[ShelvedGallery, ...] = ()) -> None:
        """Index the entries by name and slug."""
        self.profile = profile
        self.awaited: AwaitedGallery | None = None
        self.when_replaced: Callable[[], None] = lambda: None
        self._refused: dict[str, tuple[int, ...]] = {}
        self._hold(entries)

    def _hold(self, entries: tuple[ShelvedGallery, ...]) -> None:
        by_name: dict[str, ShelvedGallery] = {}
        for entry in entries:
            by_name.setdefault(entry.slug, entry)
        for entry in entries:
            by_name[entry.name] = entry
        self.entries, self._by_name = entries, by_name

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
        shelf = cls(profile)
        seen: set[str] = set()
        for folder in folders:
            place = os.path.realpath(folder)
            if place not in seen:
                seen.add(place)
                shelf.add(folder, models, max_query_chars=max_query_chars)
        return shelf

    def add(self, folder: Path, models: Models, *, max_query_chars: int) -> None:
        """Open and verify one more gallery, and serve it after the others.

        Args:
            folder: Its folder.
            models: As for :meth:`open`, and so on.
            max_query_chars: Longest query that is answered.

        Raises:
            GalleryError: It cannot be served.
        """
        gallery = Gallery.open(folder, self.profile)
        names = {entry.name for entry in self.entries}
        slugs = {entry.slug for entry in self.entries}
        entry = ShelvedGallery(
            name=_unique(gallery.name, names, " ({})"),
            slug=_unique(_slug(gallery.name), slugs, "-{}"),
            version=_version(gallery),
            gallery=gallery,
            service=SearchService(gallery, models, max_query_chars=max_query_chars),
        )
        self._hold((*self.entries, entry))
        self.when_replaced()

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

    def refresh(self) -> bool:
        """Serve anew each gallery whose folder was replaced, as by ``build --overwrite``.

        Until then, and where the new one cannot be served, the old one goes on answering.

        Returns:
            Whether an entry was replaced.
        """
        entries = tuple(map(self._renewed, self.entries))
        if all(new is old for new, old in zip(entries, self.entries, strict=True)):
            return False
        self._hold(entries)
        self.when_replaced()
        return True

    def _renewed(self, entry: ShelvedGallery) -> ShelvedGallery:
        folder = entry.gallery.folder
        if entry.gallery.is_in_place():
            return entry
        try:
            found = os.stat(folder / MANIFEST_FILE)
        except OSError:
            return entry  # it was removed, or its successor is on its way
        identity = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if self._refused.get(entry.slug) == identity:
            return entry
        try:
            gallery = Gallery.open(folder, self.profile)
        except (TwoLensError, OSError) as error:
            self._refused[entry.slug] = identity
            logger.warning("%s was replaced; the old one stays: %s", folder, sentence_of(error))
            return entry
        logger.info("%s was replaced; the new one is served from now on", folder)
        service = SearchService(gallery, entry.service.models, entry.service.max_query_chars)
        return replace(entry, version=_version(gallery), gallery=gallery, service=service)

    def warm_up(self) -> None:
        """Load both query encoders by embedding one short query with each.

        Raises:
            ModelError: An encoder cannot be loaded.
        """
        if self.entries:
            self.entries[0].service.compare(_WARM_QUERY, k=1)

    def warm_up_others(self) -> None:
        """Make what a first search of each other gallery would wait for.

        Raises:
            ModelError: An encoder cannot be loaded.
        """
        for entry in self.entries[1:]:
            entry.service.compare(_WARM_QUERY, k=1)


def _version(gallery: Gallery) -> str:
    return gallery.manifest_sha256[:12]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gallery"


def _unique(name: str, taken: set[str], pattern: str) -> str:
    if name not in taken:
        return name
    number = 2
    while name + pattern.format(number) in taken:
        number += 1
    return name + pattern.format(number)
