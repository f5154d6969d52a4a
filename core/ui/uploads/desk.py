"""What the upload tab and its endpoints do for one visitor, apart from how it is shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from core.errors import ImageError, UploadError
from core.images.decode import decode
from core.images.file_names import shown_name
from core.records import CORRECTED, CaptionPooling, ImageRecord
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.uploads.routes import large_address, thumbnail_address
from core.uploads.intake import Progress
from core.uploads.registry import Uploads
from core.uploads.session import UploadSession
from core.uploads.snapshot import Snapshot

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.gallery.reader import Gallery
    from core.ui.uploads.inbox import Arrived, Inbox

_NOT_ARRIVED = "did not arrive; please send it again"


@dataclass(frozen=True, slots=True)
class ShelvedUpload(ShelvedGallery):
    """An upload in the place of a gallery: the same cards, searched by the same service.

    Attributes:
        session: Whose pictures they are.
    """

    session: UploadSession

    def thumbnail_url(self, image_id: str) -> str:
        """Return the address of a thumbnail, relative to the page; it holds the view token."""
        return thumbnail_address(self.session, image_id)

    def large_url(self, image_id: str) -> str:
        """Return the address of a large copy, relative to the page, or ""; it holds the token."""
        return large_address(self.session, image_id)

    @property
    def public_slug(self) -> str:
        """Nothing: the endpoints of galleries do not serve a visitor's photos."""
        return ""

    @property
    def source_id(self) -> str:
        """Nothing: an upload was not built from a source with a name."""
        return ""

    @property
    def caption_pooling(self) -> CaptionPooling:
        """An upload has one caption a picture."""
        return "mean"

    @property
    def has_text(self) -> bool:
        """Not that: visitors wait for their photos, whose text is not read."""
        return False

    def origin_of(self, record: ImageRecord) -> str:
        """Return who wrote a picture's caption, in words for the visitor."""
        return "Corrected by you" if CORRECTED in record.caption_flags else "By the captioner"


class UploadDesk:
    """Everything that a visitor can do with photos of their own.

    A visitor is known by gradio's name for their tab (``session_hash``), a secret of that tab and
    this server. Which upload a tab has is kept here, for as long as the upload lives: gradio's own
    store drops a session when enough others come. The id of an upload is never sent to a browser,
    and nothing that a browser sends is taken for one.

    Attributes:
        uploads: All uploads.
        inbox: Where files arrive.
    """

    def __init__(self, uploads: Uploads, inbox: Inbox) -> None:
        """Serve the visitors of one app."""
        self.uploads = uploads
        self.inbox = inbox
        self._lock = threading.Lock()
        self._tabs: dict[str, str] = {}
        self._closed: set[str] = set()
        uploads.when_forgotten = self._forgotten

    def find(self, tab: str | None) -> UploadSession | None:
        """Return a visitor's upload; None if they have none, or it was forgotten."""
        try:
            return self.get(tab)
        except UploadError:
            return None

    def get(self, tab: str | None) -> UploadSession:
        """Return a visitor's upload.

        Raises:
            UploadError: They have none, or it was forgotten.
        """
        with self._lock:
            upload_id = self._tabs.get(tab or "")
            self._closed.discard(tab or "")
        return self.uploads.get(upload_id)

    def resume(self, tab: str | None, token: str) -> UploadSession | None:
        """Give a tab the upload that its visitor had before they loaded the page again.

        Args:
            tab: Gradio's name for the tab as it is now.
            token: What the browser kept for it (:attr:`UploadSession.keep_token`).
        """
        session = self.uploads.by_keep_token(token)
        if session is None or not tab:
            return None
        with self._lock:
            self._tabs[tab] = session.id
        return session

    def take_in(
        self, tab: str | None, files: Sequence[dict[str, Any]] | None, visitor: str
    ) -> UploadSession:
        """Move files from the inbox into a visitor's upload, which the first that arrived begins.

        Args:
            tab: Gradio's name for the visitor's tab.
            files: What gradio says of the files that were sent: ``path`` and ``orig_name``.
            visitor: Address that the request came from.

        Raises:
            UploadError: There is no upload yet, and no room for one or no file that arrived; or it
                was forgotten meanwhile.
        """
        sent = [(_name_of(file), self.inbox.take(_path_of(file))) for file in files or ()]
        try:
            session = self.find(tab)
            if session is None:
                if not any(arrived is not None and arrived.whole for _, arrived in sent):
                    raise UploadError(self._nothing_arrived(sent))
                session = self._begin(tab, visitor)
            for name, arrived in sent:
                if arrived is not None and arrived.whole:
                    session.receive(arrived.path, name)
                else:
                    session.refuse(name, self._missing(arrived))
            return session
        finally:
            for _, arrived in sent:
                if arrived is not None:
                    self.inbox.tidy(arrived.path)

    def _begin(self, tab: str | None, visitor: str) -> UploadSession:
        if not tab:
            raise UploadError("Photos are kept for a session: send the same session_hash always.")
        with self._lock:  # two requests of one tab must not begin two uploads
            upload_id = self._tabs.get(tab)
            try:
                session = self.uploads.get(upload_id)
            except UploadError:
                session = self.uploads.start(visitor)
            self._tabs[tab] = session.id
        return session

    def _nothing_arrived(self, sent: Sequence[tuple[str, Arrived | None]]) -> str:
        if not sent:
            return "No file was sent; choose some photos."
        name, arrived = sent[0]
        others = len(sent) - 1
        more = f" {others:,} more could not be kept." if others else ""
        return f"{shown_name(name)} {self._missing(arrived)}.{more}"

    def _missing(self, arrived: Arrived | None) -> str:
        return _NOT_ARRIVED if arrived is None else self._too_much(arrived.size)

    def take_picture(self, file: dict[str, Any] | None) -> Image | None:
        """Decode a picture that someone wants to search by, and delete its file soon.

        Raises:
            ImageError: It cannot be used.
        """
        if not file:
            return None
        name = shown_name(str(file.get("orig_name") or "The picture"))
        arrived = self.inbox.take(_path_of(file))
        if arrived is None:
            raise ImageError(name, _NOT_ARRIVED)
        try:
            if not arrived.whole:
                raise ImageError(name, self._too_much(arrived.size))
            return decode(arrived.path, name, self.uploads.limits.decode).image
        finally:
            self.inbox.tidy_soon(arrived.path)

    def discard(self, file: dict[str, Any] | None) -> None:
        """Delete a file that nobody will look at."""
        arrived = self.inbox.take(_path_of(file or {}))
        if arrived is not None:
            self.inbox.tidy_soon(arrived.path)

    def describe(self, tab: str | None) -> Iterator[tuple[UploadSession, Progress]]:
        """Describe a visitor's waiting files.

        Raises:
            UploadError: They have no upload, or it is being described already.
        """
        session = self.get(tab)
        for progress in self.uploads.describe(session):
            yield session, progress

    def shelf(self, session: UploadSession) -> Shelf:
        """Return a shelf with the pictures that are described at this moment as its gallery."""
        snapshot: Snapshot = session.snapshot
        entry = ShelvedUpload(
            name=snapshot.name,
            slug="upload",
            version="",
            gallery=cast("Gallery", snapshot),  # cards and searches use what both have
            service=self.uploads.search(session),
            session=session,
        )
        return Shelf(self.uploads.models.profile, (entry,) if len(snapshot) else ())

    def forget(self, tab: str | None) -> bool:
        """Delete a visitor's upload for good; False if there was none."""
        with self._lock:
            upload_id = self._tabs.get(tab or "")
        return self.uploads.forget(upload_id or "")

    def tab_closed(self, tab: str | None) -> None:
        """Stop a visitor's run and let their upload end soon."""
        with self._lock:
            upload_id = self._tabs.get(tab or "")
            if upload_id is None:
                return
            self._closed.add(tab or "")
            owners = {owner for owner, owned in self._tabs.items() if owned == upload_id}
        if owners <= self._closed:  # else it was loaded again already
            self.uploads.leave(upload_id)

    def _forgotten(self, upload_id: str) -> None:
        with self._lock:
            tabs = [tab for tab, owned in self._tabs.items() if owned == upload_id]
            for tab in tabs:
                del self._tabs[tab]
            self._closed.difference_update(tabs)

    def _too_much(self, size: int) -> str:
        limits = self.uploads.limits
        return limits.refusal(size, held_files=0, held_bytes=limits.bytes)


def _path_of(file: dict[str, Any]) -> str:
    return str(file.get("path") or "")


def _name_of(file: dict[str, Any]) -> str:
    return str(file.get("orig_name") or "") or _path_of(file)
