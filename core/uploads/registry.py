"""All visitors' uploads: who may start one, which one is whose, and when each is forgotten."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.describing import Describer
from core.errors import UploadError
from core.gallery.copies import CopySizes
from core.search.service import SearchService
from core.uploads.intake import Intake, Progress, run_intake
from core.uploads.limits import UploadLimits, checked_caption, disk_trouble
from core.uploads.run_folder import RunFolder, sweep_older
from core.uploads.session import UploadSession
from core.uploads.zero_gpu import RENTED_BATCH, RentedCaptioner

if TYPE_CHECKING:
    from core.config import Settings
    from core.models.profiles import Models
    from core.models.spec import Captioner
    from core.records import ImageRecord

logger = logging.getLogger(__name__)

_SESSIONS = "sessions"
_INBOX = "inbox"
_FIRST_GUESS_S = 0.5
_LONGEST_TRANSFER_S = 600.0
_NEWEST_WEIGHT = 0.5


@dataclass(slots=True)
class _Place:
    """One of the places for uploads.

    Attributes:
        session: What takes it.
        visitor: Whose it is; None is not counted.
        used_at: When it was last asked for, in monotonic seconds.
        ends_at: When it is forgotten unless it is used.
    """

    session: UploadSession
    visitor: str | None
    used_at: float
    ends_at: float


class Uploads:
    """The uploads of a running app. Every method may be called from any thread.

    Nothing is written outside :attr:`folder`, which dies with the process; embeddings and indexes
    are in memory only. A thread forgets uploads that are idle, whose tab was closed, or too old;
    one that holds no photo gives its place back soon.

    Attributes:
        settings: Limits and times.
        models: What embeds captions, pictures and queries.
        captioner: What writes the captions.
        inbox: Folder for files that are still being received, on the same file system.
        when_forgotten: Called with the id of each upload that was forgotten, whatever the cause.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        captioner: Captioner,
        seconds_an_image: float = _FIRST_GUESS_S,
    ) -> None:
        """Make the folder, after deleting what killed runs left; load no model.

        Args:
            settings: Limits and times.
            models: What embeds captions, pictures and queries.
            captioner: What writes the captions.
            seconds_an_image: First guess of what one photo takes, until that is measured.
        """
        self.settings = settings
        self.models = models
        self.captioner = captioner
        self._limits = UploadLimits.of(settings)
        self._describer = Describer(captioner, models.sentence, models.clip)
        self._run_folder = RunFolder(settings.upload_dir or settings.cache_dir / "uploads")
        self.inbox = self.folder / _INBOX
        self.inbox.mkdir(mode=0o700)
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._views: dict[str, UploadSession] = {}
        self._seconds_an_image = seconds_an_image
        self.when_forgotten: Callable[[str], None] = lambda _: None
        self._closing = threading.Event()
        self._janitor = threading.Thread(target=self._keep_tidy, name="uploads", daemon=True)
        self._janitor.start()

    @property
    def folder(self) -> Path:
        """The private folder of this run."""
        return self._run_folder.path

    @property
    def batch_size(self) -> int:
        """Photos that are described at once."""
        rented = isinstance(self.captioner, RentedCaptioner)
        return RENTED_BATCH if rented else self.settings.upload_batch_size

    @property
    def limits(self) -> UploadLimits:
        """How much one upload may hold."""
        return self._limits

    def __len__(self) -> int:
        """Return how many uploads live."""
        return len(self._places)

    # -- whose is which

    def start(self, visitor: str | None = None) -> UploadSession:
        """Begin an upload; one that gets no photo is forgotten soon.

        Args:
            visitor: Whose it is, of whom only so many may live at once; None is not counted.

        Raises:
            UploadError: As many as may live at once do, or its folder cannot be made.
        """
        with self._lock:
            self._check_room(visitor)
            profile = self.models.profile
            dims = (_dim(profile.sentence.dim), _dim(profile.clip.dim))
            folder = self.folder / _SESSIONS / secrets.token_hex(8)
            try:
                session = UploadSession(folder, self._limits, dims)
            except OSError as error:
                logger.error("an upload could not begin: %s", error)
                raise UploadError(f"Your photos {disk_trouble(error)}; try again later.") from error
            now = time.monotonic()
            place = _Place(session, visitor, now, now + self.settings.upload_idle_s)
            self._places[session.id] = place
            self._views[session.view_token] = session
            return session

    def _check_room(self, visitor: str | None) -> None:
        settings = self.settings
        if self._closing.is_set() or len(self._places) >= settings.max_uploads:
            raise UploadError(
                f"{settings.max_uploads} uploads are open, which is all that fit here; "
                "please try again in a few minutes."
            )
        own = sum(place.visitor == visitor for place in self._places.values())
        if visitor is not None and own >= settings.max_uploads_per_visitor:
            raise UploadError(
                f"{own} uploads from your address are open, which is all that one address may "
                "have; press Forget everything in another tab, or try again in a few minutes."
            )

    def get(self, session_id: str | None) -> UploadSession:
        """Return an upload by its secret id and put off its end.

        Raises:
            UploadError: It has ended, or there never was one.
        """
        with self._lock:
            place = self._places.get(session_id or "")
            if place is None:
                raise UploadError("There is no upload here, or it was forgotten; add your photos.")
            place.used_at = time.monotonic()
            place.ends_at = place.used_at + self.settings.upload_idle_s
            return place.session

    def by_keep_token(self, token: str) -> UploadSession | None:
        """Return the living upload of whose browser kept this token, and put off its end."""
        with self._lock:
            sessions = [place.session for place in self._places.values()]
        for session in sessions:
            if secrets.compare_digest(session.keep_token.encode(), token.encode()):
                try:
                    return self.get(session.id)
                except UploadError:
                    return None
        return None

    def by_view_token(self, token: str) -> UploadSession | None:
        """Return the upload whose thumbnails and downloads a token opens, if it lives."""
        with self._lock:
            return self._views.get(token)

    def sessions(self) -> list[UploadSession]:
        """Return the uploads that live, the oldest first."""
        with self._lock:
            return [place.session for place in self._places.values()]

    # -- using one

    def describe(self, session: UploadSession) -> Iterator[Progress]:
        """Describe an upload's waiting files; see :func:`core.uploads.intake.run_intake`."""
        intake = Intake(
            self._describer.describe,
            batch_size=self.batch_size,
            sizes=CopySizes(self.settings.thumbnail_px, self.settings.large_px),
        )
        for progress in run_intake(session, intake):
            self._put_off(session)  # a long run is not idleness
            if progress.finished and progress.described:
                newest = progress.elapsed_s / progress.described
                self._seconds_an_image += _NEWEST_WEIGHT * (newest - self._seconds_an_image)
            yield progress

    def estimate_s(self, count: int) -> float:
        """Return how long describing ``count`` photos will take, from how long it took before."""
        return count * self._seconds_an_image

    def search(self, session: UploadSession) -> SearchService:
        """Return a search over the pictures that are described at this moment."""
        return SearchService(session.snapshot, self.models, self.settings.max_query_chars)

    def correct(self, session: UploadSession, image_id: str, caption: str) -> ImageRecord:
        """Replace a caption by a visitor's, embed it, and index it.

        Raises:
            UnknownImageError: The upload has no such picture.
            UploadError: The caption is empty or too long, or the upload has ended.
        """
        session.snapshot.row(image_id)
        line = checked_caption(caption)
        return session.correct(image_id, line, self.models.sentence.encode_text([line])[0])

    # -- ending

    def forget(self, session_id: str) -> bool:
        """Delete an upload for good; False if there was none."""
        with self._lock:
            place = self._places.pop(session_id, None)
            if place is None:
                return False
            self._views.pop(place.session.view_token, None)
        place.session.forget()
        self.when_forgotten(session_id)
        return True

    def leave(self, session_id: str) -> None:
        """Stop its run and let an upload end soon, because its tab was closed.

        Using it again puts that off: a tab that loses its connection for a moment looks closed.
        """
        with self._lock:
            place = self._places.get(session_id)
            if place is not None:
                place.session.stop()
                place.ends_at = time.monotonic() + self.settings.upload_closed_s

    def close(self) -> None:
        """Forget everything and delete the folder; a second call does nothing.

        Threads that decode or describe a photo at this moment are not waited for.
        """
        self._closing.set()
        for session_id in list(self._places):
            self.forget(session_id)
        self._run_folder.close()

    def forget_overdue(self) -> int:
        """Forget the uploads whose time is up, and return how many."""
        with self._lock:
            overdue = [id_ for id_, place in self._places.items() if self._is_overdue(place)]
        return sum(self.forget(session_id) for session_id in overdue)

    def _is_overdue(self, place: _Place) -> bool:
        now = time.monotonic()
        if place.ends_at <= now or place.session.created_at <= now - self.settings.upload_max_age_s:
            return True
        return place.used_at <= now - self.settings.upload_empty_s and place.session.is_empty

    def _put_off(self, session: UploadSession) -> None:
        with self._lock:
            place = self._places.get(session.id)
            if place is not None:
                place.used_at = time.monotonic()
                soonest = place.used_at + self.settings.upload_closed_s
                place.ends_at = max(place.ends_at, soonest)

    def _keep_tidy(self) -> None:
        settings = self.settings
        longest = (
            5.0,
            settings.upload_idle_s / 4,
            settings.upload_empty_s,
            settings.upload_closed_s,
        )
        pause = max(0.1, min(longest))
        while not self._closing.wait(pause):
            try:
                forgotten = self.forget_overdue()
                sweep_older(self.inbox, settings.upload_closed_s + _LONGEST_TRANSFER_S)
                if forgotten:
                    logger.info("forgot %d uploads whose time was up", forgotten)
            except Exception:  # the next round must come whatever happens in this one
                logger.exception("tidying uploads failed")


def _dim(dim: int | None) -> int:
    if dim is None:
        raise UploadError("The models of this profile do not say how long their embeddings are.")
    return dim
