"""The galleries that one running app serves, each with the service that searches it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import QueryError
from core.gallery.manifest import Manifest
from core.gallery.reader import Gallery
from core.models.match_threshold import match_threshold
from core.models.profiles import Models, Profile
from core.models.spec import ModelSpec
from core.records import CORRECTED, CaptionPooling, ImageRecord, Lens
from core.search.query_language.filters import prepare_filters
from core.search.results import SearchResult
from core.search.service import SearchService
from core.ui.galleries.listed import ListedGallery
from core.ui.galleries.locations import FolderPlace, GalleryPlace

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

    @property
    def caption_pooling(self) -> CaptionPooling:
        """How several captions of a picture are indexed."""
        return self.gallery.manifest.caption_pooling

    @property
    def has_text(self) -> bool:
        """Whether the text in its pictures was read when it was built."""
        return self.gallery.manifest.text_reader is not None

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
        shown: Those that can be shown: caption by id, "" while it is being written.
        trouble: Why it will not come, or "".
    """

    folder: Path
    total: int
    done: int
    shown: Mapping[str, str]
    trouble: str

    def thumbnail(self, image_id: str) -> bytes | None:
        """Return the thumbnail, webp, of one of those; None for another picture."""
        ...

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

    The first is open from the start, each other one from when it is first asked for.

    Attributes:
        profile: The models that answer.
        listed: All galleries, open or not; may be empty, which the page then says.
        awaited: A gallery that is being built or measured; None if none is.
        when_replaced: Called when a page that is opened begins with something else than before.
    """

    def __init__(self, profile: Profile, entries: Iterable[ShelvedGallery] = ()) -> None:
        """Begin with galleries that are open, or with none."""
        self.profile = profile
        self.listed: tuple[ListedGallery, ...] = ()
        self.awaited: AwaitedGallery | None = None
        self.when_replaced: Callable[[], None] = lambda: None
        self._by_name: dict[str, ListedGallery] = {}
        for entry in entries:
            self._hold(ListedGallery.holding(entry))

    @classmethod
    def open(
        cls,
        places: Iterable[GalleryPlace | Path],
        profile: Profile,
        models: Models,
        *,
        max_query_chars: int,
    ) -> Shelf:
        """List galleries; open and verify the first.

        Another one whose manifest cannot be read is listed all the same, and logged.

        Args:
            places: Where they are; one given twice is served once.
            profile: The models that must have built them.
            models: The models that embed queries; nothing is loaded here.
            max_query_chars: Longest query that is answered.

        Raises:
            GalleryError: The first cannot be served.
            HubError: The first cannot be had.
        """
        shelf = cls(profile)
        distinct: dict[str, GalleryPlace] = {}
        for given in places:
            place = FolderPlace(given) if isinstance(given, Path) else given
            distinct.setdefault(place.identity, place)
        for place in distinct.values():
            if not shelf.listed:
                shelf._add(place, models, max_query_chars)
            else:
                shelf._hold(shelf._listed(place, models, max_query_chars))
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
        self._add(FolderPlace(folder), models, max_query_chars)
        self.when_replaced()

    def _add(self, place: GalleryPlace, models: Models, max_query_chars: int) -> None:
        folder = place.folder()
        listed = self._listed(place, models, max_query_chars, Manifest.read(folder))
        listed.open_now(folder)
        self._hold(listed)

    def _listed(
        self,
        place: GalleryPlace,
        models: Models,
        max_query_chars: int,
        manifest: Manifest | None = None,
    ) -> ListedGallery:
        def opened(name: str, slug: str, folder: Path) -> ShelvedGallery:
            gallery = Gallery.open(folder, self.profile)
            entry = ShelvedGallery(
                name=name,
                slug=slug,
                version=_version(gallery),
                gallery=gallery,
                service=SearchService(gallery, models, max_query_chars=max_query_chars),
            )
            if (other := entry.other_captioner(self.profile.captioner)) is not None:
                logger.info(
                    "%s has captions by %s; new photos get theirs by %s",
                    *(entry.name, other, self.profile.captioner.name),
                )
            return entry

        listed = ListedGallery(place, opened, manifest)
        title = listed.manifest.name if listed.manifest else place.title
        listed.name = _unique(title, set(self.names), " ({})")
        listed.slug = _unique(_slug(title), {each.slug for each in self.listed}, "-{}")
        return listed

    def _hold(self, listed: ListedGallery) -> None:
        self.listed = (*self.listed, listed)
        self._by_name = {each.slug: each for each in reversed(self.listed)}
        self._by_name |= {each.name: each for each in self.listed}

    @property
    def entries(self) -> tuple[ShelvedGallery, ...]:
        """The galleries that are open, in order. An entry never changes; see :meth:`refresh`."""
        return tuple(each.opened for each in self.listed if each.opened is not None)

    @property
    def names(self) -> list[str]:
        """Names of all galleries, in order."""
        return [each.name for each in self.listed]

    def entry(self, name: str | None = None) -> ShelvedGallery:
        """Return a gallery by its name or slug, opened if it was not; the first for None or "".

        Raises:
            QueryError: There is no gallery, or none of that name.
            GalleryError: It cannot be opened.
        """
        return self.find(name).entry()

    def find(self, name: str | None = None) -> ListedGallery:
        """Return what is listed of a gallery, which need not be open, by its name or slug.

        Raises:
            QueryError: There is no gallery, or none of that name.
        """
        if not self.listed:
            raise QueryError("No gallery is loaded, so there is nothing to search.")
        if not name:
            return self.listed[0]
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise QueryError(f"There is no gallery called {str(name)[:40]!r}.")
        return found

    def refresh(self) -> bool:
        """Serve anew each open gallery whose folder was replaced, as by ``build --overwrite``.

        Returns:
            Whether one was replaced.
        """
        replaced = [each.renew() for each in self.listed]
        if any(replaced):
            self.when_replaced()
        return any(replaced)

    def fetch_others(self) -> None:
        """Bring galleries of the Hub to this machine, so that nobody who chooses one waits."""
        for each in self.listed:
            if each.fetch():
                self.when_replaced()

    def warm_up(self) -> None:
        """Load both query encoders by embedding one short query with each.

        Raises:
            ModelError: An encoder cannot be loaded.
        """
        if self.entries:
            self.entries[0].service.compare(_WARM_QUERY, k=1)
            prepare_filters(self.entries[0].gallery)


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
