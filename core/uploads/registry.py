"""All visitors' uploads: who may start one, which one is whose, and when each is forgotten."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.describing import Describer
from core.errors import UploadError
from core.search.service import SearchService
from core.uploads.captioner import RENTED_BATCH, RentedCaptioner
from core.uploads.intake import Intake, Progress, run_intake
from core.uploads.limits import UploadLimits, checked_caption
from core.uploads.run_folder import RunFolder, sweep_older
from core.uploads.session import UploadSession

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


class Uploads:
    """The uploads of a running app. Every method may be called from any thread.

    Nothing is written outside :attr:`folder`, which dies with the process; embeddings and indexes
    are in memory only. A thread forgets uploads that are idle, whose tab was closed, or too old.

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
        self._sessions: dict[str, UploadSession] = {}
        self._views: dict[str, UploadSession] = {}
        self._deadlines: dict[str, float] = {}
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
        return len(self._sessions)

    # -- whose is which

    def start(self) -> UploadSession:
        """Begin an upload.

        Raises:
            UploadError: As many as may live at once do.
        """
        with self._lock:
            if self._closing.is_set() or len(self._sessions) >= self.settings.max_uploads:
                raise UploadError(
                    f"{self.settings.max_uploads} uploads are open, which is all that fit here; "
                    "please try again in a few minutes."
                )
            profile = self.models.profile
            session = UploadSession(
                self.folder / _SESSIONS / secrets.token_hex(8),
                self._limits,
                (_dim(profile.sentence.dim), _dim(profile.clip.dim)),
            )
            self._sessions[session.id] = session
            self._views[session.view_token] = session
            self._deadlines[session.id] = time.monotonic() + self.settings.upload_idle_s
            return session

    def get(self, session_id: str | None) -> UploadSession:
        """Return an upload by its secret id and put off its end.

        Raises:
            UploadError: It has ended, or there never was one.
        """
        with self._lock:
            session = self._sessions.get(session_id or "")
            if session is None:
                raise UploadError("There is no upload here, or it was forgotten; add your photos.")
            self._deadlines[session.id] = time.monotonic() + self.settings.upload_idle_s
            return session

    def by_view_token(self, token: str) -> UploadSession | None:
        """Return the upload whose thumbnails and downloads a token opens, if it lives."""
        with self._lock:
            return self._views.get(token)

    # -- using one

    def describe(self, session: UploadSession) -> Iterator[Progress]:
        """Describe an upload's waiting files; see :func:`core.uploads.intake.run_intake`."""
        intake = Intake(
            self._describer.describe,
            batch_size=self.batch_size,
            thumbnail_px=self.settings.thumbnail_px,
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
            session = self._sessions.pop(session_id, None)
            self._deadlines.pop(session_id, None)
            if session is None:
                return False
            self._views.pop(session.view_token, None)
        session.forget()
        self.when_forgotten(session_id)
        return True

    def leave(self, session_id: str) -> None:
        """Stop its run and let an upload end soon, because its tab was closed.

        Using it again puts that off: a tab that loses its connection for a moment looks closed.
        """
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None:
                session.stop()
                self._deadlines[session_id] = time.monotonic() + self.settings.upload_closed_s

    def close(self) -> None:
        """Forget everything and delete the folder; a second call does nothing."""
        self._closing.set()
        for session_id in list(self._sessions):
            self.forget(session_id)
        self._run_folder.close()

    def forget_overdue(self) -> int:
        """Forget the uploads whose time is up, and return how many."""
        now = time.monotonic()
        oldest = now - self.settings.upload_max_age_s
        with self._lock:
            overdue = [
                session.id
                for session in self._sessions.values()
                if self._deadlines[session.id] <= now or session.created_at <= oldest
            ]
        return sum(self.forget(session_id) for session_id in overdue)

    def _put_off(self, session: UploadSession) -> None:
        with self._lock:
            if session.id in self._deadlines:
                soonest = time.monotonic() + self.settings.upload_closed_s
                self._deadlines[session.id] = max(self._deadlines[session.id], soonest)

    def _keep_tidy(self) -> None:
        pause = max(0.1, min(5.0, self.settings.upload_idle_s / 4, self.settings.upload_closed_s))
        while not self._closing.wait(pause):
            try:
                forgotten = self.forget_overdue()
                sweep_older(self.inbox, self.settings.upload_closed_s + _LONGEST_TRANSFER_S)
                if forgotten:
                    logger.info("forgot %d uploads whose time was up", forgotten)
            except Exception:  # the next round must come whatever happens in this one
                logger.exception("tidying uploads failed")


def _dim(dim: int | None) -> int:
    if dim is None:
        raise UploadError("The models of this profile do not say how long their embeddings are.")
    return dim
