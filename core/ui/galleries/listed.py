"""A gallery in the list of an app: opened when it is first chosen."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import (
    CorruptGalleryError,
    GalleryError,
    GalleryNotFoundError,
    HubError,
    IncompleteGalleryError,
    ManifestMismatchError,
    ModelError,
    TwoLensError,
    sentence_of,
)
from core.gallery.copies import cover_of
from core.gallery.layout import MANIFEST_FILE
from core.gallery.manifest import Manifest
from core.ui.galleries.locations import GalleryPlace

if TYPE_CHECKING:
    from core.ui.galleries.shelf import ShelvedGallery

logger = logging.getLogger("twolens")

AGAIN_S = 10.0
"""After a gallery could not be opened, nobody makes the app try again for this long."""
_WAIT_S = 5.0
"""Longest wait for a gallery that somebody else is opening, or that is being fetched."""


class ListedGallery:
    """One gallery of the list. Safe to use from many threads.

    Attributes:
        name: What the page shows; unique in the list. Whoever lists it sets it, and the slug.
        slug: The name in an address; unique.
        manifest: What it is made of, as far as it is known without opening it; None if it could
            not be read.
        trouble: Why it could not be opened the last time, one sentence for a visitor, or "".
    """

    def __init__(
        self,
        place: GalleryPlace | None,
        opens: Callable[[str, str, Path], ShelvedGallery],
        manifest: Manifest | None = None,
    ) -> None:
        """List a gallery that is not open.

        Args:
            place: Where it is; None for what is open and is never opened anew.
            opens: Opens and verifies what lies in a folder, under a name and a slug.
            manifest: If it was read already; that it cannot be read is logged.
        """
        self.name = self.slug = place.title if place else ""
        self.manifest = manifest
        self.trouble = ""
        self._place = place
        self._opens = opens
        self._entry: ShelvedGallery | None = None
        self._lock = threading.Lock()
        self._failed_at = float("-inf")
        self._refused: tuple[int, ...] = ()
        if manifest is None and place is not None:
            try:
                self.manifest = place.manifest()
            except (TwoLensError, OSError) as error:
                self._failed(error)

    @classmethod
    def holding(cls, entry: ShelvedGallery) -> ListedGallery:
        """List what is open already, such as a visitor's photos."""
        listed = cls(None, lambda name, slug, folder: entry)
        listed.name, listed.slug, listed._entry = entry.name, entry.slug, entry
        return listed

    @property
    def opened(self) -> ShelvedGallery | None:
        """The open gallery; None before it was first chosen."""
        return self._entry

    def entry(self) -> ShelvedGallery:
        """Return the open gallery; open it if need be, which may fetch it.

        Raises:
            GalleryError: It cannot be opened, or is still being fetched: a visitor's sentence.
        """
        if self._entry is not None:
            return self._entry
        if not self._lock.acquire(timeout=_WAIT_S):
            sentence = f"{self.name} is still being made ready. Choose it again in a minute."
            raise GalleryError(Path(self.name), sentence)
        try:
            if self._entry is None:
                self._open()
        finally:
            self._lock.release()
        assert self._entry is not None
        return self._entry

    def open_now(self, folder: Path) -> None:
        """Open the gallery in its folder, and let the operator have the error as it is.

        Raises:
            TwoLensError: It cannot be opened.
        """
        with self._lock:
            self._hold(folder)

    def fetch(self) -> bool:
        """Bring the files to this machine, so that nobody waits who chooses the gallery.

        Returns:
            Whether they came now. What goes wrong is logged, and said to whoever chooses it.
        """
        if self._place is None or self._place.folder_here() is not None:
            return False
        with self._lock:
            try:
                self._place.folder()
            except (TwoLensError, OSError) as error:
                self._failed(error)
                return False
        return True

    def cover(self) -> bytes | None:
        """Return a picture of it: webp; None if its files are not here or cannot be read."""
        if self._entry is not None:
            gallery = self._entry.gallery
            return gallery.read_thumbnail(gallery.records[0].id) if len(gallery) else None
        folder = self._place.folder_here() if self._place else None
        return None if folder is None else cover_of(folder)

    def renew(self) -> bool:
        """Serve the gallery anew if its folder was replaced, as by ``build --overwrite``.

        Until then, and where the new one cannot be served, the old one goes on answering.

        Returns:
            Whether it was replaced.
        """
        entry = self._entry
        if entry is None or entry.gallery.is_in_place():
            return False
        folder = entry.gallery.folder
        try:
            found = os.stat(folder / MANIFEST_FILE)
        except OSError:
            return False  # it was removed, or its successor is on its way
        identity = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if self._refused == identity:
            return False
        try:
            self._hold(folder)
        except (TwoLensError, OSError) as error:
            self._refused = identity
            logger.warning("%s was replaced; the old one stays: %s", folder, sentence_of(error))
            return False
        logger.info("%s was replaced; the new one is served from now on", folder)
        return True

    def _open(self) -> None:
        if time.monotonic() - self._failed_at < AGAIN_S:
            raise GalleryError(Path(self.name), self.trouble)
        assert self._place is not None  # what has none is open
        try:
            self._hold(self._place.folder())
        except (TwoLensError, OSError) as error:
            self._failed(error)
            raise GalleryError(Path(self.name), self.trouble) from error
        logger.info("%s was chosen for the first time and opened", self.name)

    def _hold(self, folder: Path) -> None:
        self._entry = self._opens(self.name, self.slug, folder)
        self.manifest, self.trouble = self._entry.gallery.manifest, ""

    def _failed(self, error: Exception) -> None:
        self.trouble = f"{self.name} cannot be opened: {_what(error)}."
        self._failed_at = time.monotonic()
        logger.warning("%s cannot be opened: %s", self.name, sentence_of(error))


def _what(error: Exception) -> str:
    """Return what is wrong, for a visitor: without folders of the server, or what to run there."""
    if isinstance(error, CorruptGalleryError):
        return error.what
    if isinstance(error, ManifestMismatchError):
        return f"it was built by other models or by another version ({error.field})"
    if isinstance(error, GalleryNotFoundError):
        return "its folder is not there"
    if isinstance(error, IncompleteGalleryError):
        return "its build did not finish"
    if isinstance(error, (HubError, ModelError)):
        return str(error).rstrip(".")
    return "its files cannot be read"
