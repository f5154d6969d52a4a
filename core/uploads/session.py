"""One visitor's upload: files that wait, pictures that can be searched, and what was refused."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.describing import Described, record_of
from core.errors import UnknownImageError, UploadError
from core.gallery.copies import Copies, delete_copies
from core.gallery.layout import large_file, thumbnail_path
from core.images.decode import DecodedImage, looks_like_picture
from core.images.file_names import shown_name
from core.records import CORRECTED, ImageRecord
from core.uploads.limits import Notice, Notices, UploadLimits, disk_trouble
from core.uploads.snapshot import GrowingEmbeddings, Snapshot
from core.uploads.waiting_file import WaitingFile

if TYPE_CHECKING:
    import numpy as np


logger = logging.getLogger(__name__)

_WAITING_FOLDER = "waiting"
_TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True)
class _Held:
    """What a picture takes of the limits."""

    size: int
    pixels: int


class UploadSession:
    """One visitor's photos, from the file received to the picture found.

    Every method may be called from any thread. Searches read :attr:`snapshot`, which never
    changes; what changes the upload puts a new one in its place.

    Attributes:
        id: Secret that stands for the visitor; known to the server only.
        view_token: Secret in the addresses of thumbnails and downloads; allows reading only.
        keep_token: Secret by which its browser finds the upload again after a reload.
        folder: The upload's own folder, readable by this process's user alone.
        limits: How much it may hold.
        notices: What became of files that are not simply there.
        created_at: Monotonic seconds.
    """

    def __init__(self, folder: Path, limits: UploadLimits, dims: tuple[int, int]) -> None:
        """Make the folder.

        Args:
            folder: Must not exist.
            limits: How much the upload may hold.
            dims: Lengths of a caption's and of a picture's embedding.
        """
        self.id = secrets.token_urlsafe(_TOKEN_BYTES)
        self.view_token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.keep_token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.folder = folder
        self.limits = limits
        self.notices = Notices()
        self.created_at = time.monotonic()
        self.stop_asked = threading.Event()
        folder.mkdir(mode=0o700, parents=True)
        (folder / _WAITING_FOLDER).mkdir(mode=0o700)
        self._lock = threading.RLock()
        self._busy = threading.Lock()
        self._ended = False
        self._waiting: deque[WaitingFile] = deque()
        self._held: dict[str, _Held] = {}
        self._held_files = 0
        self._held_bytes = 0
        self._held_pixels = 0
        self._names: dict[str, str] = {}
        self._records: list[ImageRecord] = []
        self._captions = GrowingEmbeddings(dims[0])
        self._clip = GrowingEmbeddings(dims[1])
        self._snapshot = self._new_snapshot()

    # -- what there is

    @property
    def ended(self) -> bool:
        """Whether everything was forgotten."""
        return self._ended

    @property
    def snapshot(self) -> Snapshot:
        """The pictures that can be searched now."""
        return self._snapshot

    @property
    def waiting(self) -> tuple[WaitingFile, ...]:
        """Files that were received and not yet described, in order."""
        with self._lock:
            return tuple(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no photo, and none is being described."""
        with self._lock:
            return not (self._waiting or self._held or self.is_busy)

    @property
    def is_busy(self) -> bool:
        """Whether its files are being described at this moment."""
        return self._busy.locked()

    def thumbnail(self, image_id: str) -> Path:
        """Return the path of a thumbnail, of a picture that is only decoded yet too.

        Raises:
            UnknownImageError: The upload has no such picture.
        """
        with self._lock:
            if image_id not in self._held:
                raise UnknownImageError(image_id)
            return thumbnail_path(self.folder, image_id)

    def large(self, image_id: str) -> Path | None:
        """Return the path of a picture's large copy; None if the thumbnail shows all there is.

        Raises:
            UnknownImageError: The upload has no such picture.
        """
        self.thumbnail(image_id)
        path = self.folder / large_file(image_id)
        return path if path.is_file() else None

    # -- receiving

    def receive(self, path: Path, name: str) -> bool:
        """Take over a file: it is moved into the upload's folder, or refused and deleted.

        Args:
            path: A file on the same file system that nobody else uses.
            name: The visitor's name for it.

        Returns:
            Whether it was taken. Otherwise a notice says why not.

        Raises:
            UploadError: The upload has ended.
        """
        file_name = shown_name(name)
        size = path.stat().st_size
        with self._lock:
            self._check_not_ended()
            if file_name.lower().endswith(".json") and not looks_like_picture(path):
                path.unlink(missing_ok=True)
                self.notices.side_files += 1
                return False
            reason = self.limits.refusal(size, self._held_files, self._held_bytes)
            target = self.folder / _WAITING_FOLDER / secrets.token_hex(8)
            if not reason:
                try:
                    os.replace(path, target)
                except OSError as error:
                    logger.error("an upload could not be stored: %s", error)
                    reason = f"{disk_trouble(error)}; please send it again"
            if reason:
                path.unlink(missing_ok=True)
                self.notices.add(Notice("refused", file_name, reason))
                return False
            self._waiting.append(WaitingFile(target, file_name, size))
            self._held_files += 1
            self._held_bytes += size
            return True

    def refuse(self, name: str, reason: str) -> None:
        """Note a file that never arrived whole."""
        with self._lock:
            self._check_not_ended()
            self.notices.add(Notice("refused", shown_name(name), reason))

    # -- describing; see core.uploads.intake

    def begin(self) -> None:
        """Reserve the upload for one run over its waiting files; :meth:`done` must follow.

        Raises:
            UploadError: It has ended, or a run is under way.
        """
        with self._lock:
            self._check_not_ended()
            if not self._busy.acquire(blocking=False):
                raise UploadError("These photos are being described already.")
            self.stop_asked.clear()

    def done(self) -> None:
        """End the run."""
        self._busy.release()

    def stop(self) -> None:
        """Ask the run to end after the batch it is at; what is done stays."""
        self.stop_asked.set()

    def next_file(self) -> WaitingFile | None:
        """Take the first waiting file; None if there is none, or the upload has ended."""
        with self._lock:
            return None if self._ended or not self._waiting else self._waiting.popleft()

    def put_back(self, files: Sequence[WaitingFile], image_ids: Sequence[str] = ()) -> None:
        """Let files wait again, in their order, before all others.

        Args:
            files: What :meth:`next_file` gave.
            image_ids: Pictures that :meth:`admit` made of some of them and that are undone.
        """
        with self._lock:
            if self._ended:
                return
            for image_id in image_ids:
                self._drop(image_id)
            self._waiting.extendleft(reversed(files))

    def turn_away(self, file: WaitingFile, reason: str) -> None:
        """Delete a file that cannot be used, and note why."""
        self._release(file, Notice("refused", file.file_name, reason))

    def admit(self, file: WaitingFile, decoded: DecodedImage, copies: Copies) -> str | None:
        """Make a picture of a decoded file, unless it is here already or there is no room.

        Returns:
            The picture's id; None if there is a notice instead.

        Raises:
            UploadError: Its copies could not be stored; the file is as it was.
        """
        image_id = decoded.id
        pixels = decoded.width * decoded.height
        with self._lock:
            if self._ended:
                return None
            if image_id in self._held:
                first = self._names[image_id]
                same = "was sent twice and is kept once"
                reason = same if first == file.file_name else f"is the same file as {first}"
                self._release(file, Notice("duplicate", file.file_name, reason))
                return None
            if self._held_pixels + pixels > self.limits.pixels:
                limit = f"{self.limits.pixels / 1e6:,.0f} megapixels"
                self.turn_away(file, f"is beyond the limit of {limit} in one upload")
                return None
            try:
                copies.write(self.folder, image_id, mode=0o700)
            except OSError as error:
                delete_copies(self.folder, image_id)
                logger.error("a thumbnail could not be stored: %s", error)
                raise UploadError(
                    f"{file.file_name} {disk_trouble(error)}. What is described stays, and the "
                    "other photos wait: try again in a few minutes."
                ) from error
            self._held[image_id] = _Held(file.size, pixels)
            self._held_pixels += pixels
            self._names[image_id] = file.file_name
            return image_id

    def add(
        self,
        files: Sequence[WaitingFile],
        pictures: Sequence[DecodedImage],
        described: Described,
    ) -> None:
        """Make admitted pictures searchable and delete their original files.

        Args:
            files: n files.
            pictures: What they were decoded to.
            described: What the models say of them, in the same order.

        Raises:
            UploadError: The upload has ended.
        """
        records = [
            record_of(picture, file.file_name, captions)
            for file, picture, captions in zip(files, pictures, described.captions, strict=True)
        ]
        with self._lock:
            self._check_not_ended()
            self._records += records
            self._captions.append(described.caption_embeddings)
            self._clip.append(described.clip_embeddings)
            for file, picture in zip(files, pictures, strict=True):
                file.path.unlink(missing_ok=True)
                for note in picture.notes:
                    self.notices.add(Notice("note", file.file_name, note))
            self._snapshot = self._new_snapshot()

    # -- changing

    def correct(self, image_id: str, caption: str, embedding: np.ndarray) -> ImageRecord:
        """Replace a picture's caption; the caption lens finds it by the new one at once.

        Args:
            image_id: A described picture.
            caption: As :func:`core.uploads.limits.checked_caption` returned it.
            embedding: Of the caption: float32 (dim,), unit norm.

        Raises:
            UnknownImageError: The upload has no such picture.
            UploadError: The upload has ended.
        """
        with self._lock:
            self._check_not_ended()
            row = self._snapshot.row(image_id)
            record = replace(
                self._records[row], caption=caption, caption_flags=(CORRECTED,), confidence=None
            )
            self._records[row] = record
            self._captions.replace(row, embedding)
            self._snapshot = self._new_snapshot()
            return record

    def remove(self, image_id: str) -> None:
        """Take a picture out of every index and delete its thumbnail.

        Raises:
            UnknownImageError: The upload has no such picture.
            UploadError: The upload has ended.
        """
        with self._lock:
            self._check_not_ended()
            row = self._snapshot.row(image_id)
            held = self._held[image_id]
            del self._records[row]
            self._captions.remove(row)
            self._clip.remove(row)
            self._drop(image_id)
            self._held_files -= 1
            self._held_bytes -= held.size
            self._snapshot = self._new_snapshot()

    def forget(self) -> None:
        """Delete every file, embedding and index, at once and for good; a run under way ends."""
        with self._lock:
            self._ended = True
            self.stop_asked.set()
            self._waiting.clear()
            self.notices = Notices()
            self._held.clear()
            self._names.clear()
            self._records = []
            self._captions = GrowingEmbeddings(1)
            self._clip = GrowingEmbeddings(1)
            self._snapshot = self._new_snapshot()
            # Renamed first, so that nothing that is being written there can still be put into it.
            gone = self.folder.with_name(f"{self.folder.name}.forgotten")
            with suppress(OSError):
                self.folder.rename(gone)
            for folder in (gone, self.folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _new_snapshot(self) -> Snapshot:
        return Snapshot(
            "Your photos", self.folder, self._records, self._captions.view(), self._clip.view()
        )

    def _drop(self, image_id: str) -> None:
        held = self._held.pop(image_id, None)
        if held is not None:
            self._held_pixels -= held.pixels
            self._names.pop(image_id, None)
            delete_copies(self.folder, image_id)

    def _release(self, file: WaitingFile, notice: Notice) -> None:
        with self._lock:
            if self._ended:
                return
            file.path.unlink(missing_ok=True)
            self._held_files -= 1
            self._held_bytes -= file.size
            self.notices.add(notice)

    def _check_not_ended(self) -> None:
        if self._ended:
            raise UploadError("This upload was forgotten; add your photos again.")
