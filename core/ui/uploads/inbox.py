"""Where a visitor's files arrive: gradio's upload route, replaced by one that can be bounded.

Gradio stores a file under the hash of its content, where whoever has the same file can find it and
two visitors get in each other's way, and a file that is too large ends the whole folder's upload.
Here each request gets a folder of its own with a name nobody can guess, of what is too much only
the size is kept, so that the rest arrives, and bytes count as they are written, so that requests
which are never finished cannot fill the disk.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.ui.guard import UPLOAD_PATH
from core.ui.request_bodies import Refusal
from core.ui.uploads.form import UploadForm, least_bytes
from core.ui.uploads.progress import UploadProgress
from core.uploads.limits import UploadLimits

_REQUESTS_THAT_FIT = 4
_REQUESTS_AT_ONCE = 64
_SHOWN_S = 5.0
_BUSY = "Too many files are arriving at once; please try again in a minute."
_NO_SPACE = "There is no space left for files here; please try again later, or tell the operator."

logger = logging.getLogger("twolens")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file in the inbox.

    Attributes:
        path: Where it lies.
        size: Bytes that were sent.
        whole: Whether all of them were kept; else the file is empty.
    """

    path: Path
    size: int
    whole: bool


class Inbox:
    """Files that were sent and not yet taken; each can be taken once.

    Args:
        folder: Private folder, which gradio must know as its upload folder.
        limits: A request keeps no more than one upload may hold.
        least_free_bytes: What stays free on the disk.
    """

    def __init__(self, folder: Path, limits: UploadLimits, least_free_bytes: int) -> None:
        """Start empty."""
        self._folder = folder
        self._limits = limits
        self._least_free = least_free_bytes
        self._arrived: dict[str, Arrived] = {}
        self._held = self._arriving = 0
        self._requests = 0
        self._lock = threading.Lock()
        self._progress = UploadProgress()

    def routes(self) -> list[Route]:
        """Return the routes that take the place of gradio's own."""
        return [Route(UPLOAD_PATH, self._receive, methods=["POST"]), self._progress.route()]

    def take(self, path: str) -> Arrived | None:
        """Hand over a file that arrived under this path; None if none did or it was taken."""
        with self._lock:
            arrived = self._arrived.pop(path, None)
            self._held -= self._cost(arrived) if arrived is not None else 0
        return arrived if arrived is not None and arrived.path.is_file() else None

    def tidy(self, path: Path) -> None:
        """Delete a taken file, if it is there still, and the folder of its request once empty."""
        path.unlink(missing_ok=True)
        try:
            path.parent.rmdir()
        except OSError:
            return

    def tidy_soon(self, path: Path) -> None:
        """Delete a taken file in a few seconds: the page that sent it shows it for a moment."""
        timer = threading.Timer(_SHOWN_S, self.tidy, [path])
        timer.daemon = True
        timer.start()

    async def _receive(self, request: Request) -> Response:
        self._begin()
        upload_id = request.query_params.get("upload_id", "")
        self._progress.begin(upload_id)
        form: UploadForm | None = None
        try:
            form = UploadForm(
                request.headers.get("Content-Type", ""),
                self._folder / secrets.token_urlsafe(24),
                self._limits,
                self._admit,
                lambda name, size: self._progress.add(upload_id, name, size),
            )
            # A thread, as a slow disk must not hold up the other visitors.
            async for chunk in request.stream():
                await run_in_threadpool(form.feed, chunk)
            form.finish()
        except OSError as error:
            if form is not None:
                form.discard()
            logger.error("an upload cannot be stored: %s", error)
            raise Refusal(503, _NO_SPACE) from error
        except BaseException:  # refused, the visitor went away, or the server stops
            if form is not None:
                form.discard()
            raise
        else:
            return JSONResponse([self._keep(*file) for file in form.files])
        finally:
            self._progress.end(upload_id)
            self._end(form)

    def _begin(self) -> None:
        free = shutil.disk_usage(self._folder).free
        with self._lock:
            self._count_again()
            if self._requests >= _REQUESTS_AT_ONCE:
                raise Refusal(503, _BUSY)
            if free < self._least_free:
                logger.warning("uploads are refused: %d bytes are free on their disk", free)
                raise Refusal(503, _NO_SPACE)
            self._requests += 1

    def _admit(self, size: int) -> None:
        """Count bytes that are about to be written, of all requests together.

        Raises:
            Refusal: They do not fit beside what has arrived and was not yet taken.
        """
        with self._lock:
            if self._held + self._arriving + size > _REQUESTS_THAT_FIT * self._limits.bytes:
                raise Refusal(503, _BUSY)
            self._arriving += size

    def _keep(self, path: Path, size: int, whole: bool) -> str:
        with self._lock:
            arrived = self._arrived[str(path)] = Arrived(path, size, whole)
            self._held += self._cost(arrived)
        return str(path)

    def _end(self, form: UploadForm | None) -> None:
        with self._lock:
            self._requests -= 1
            self._arriving -= form.admitted if form is not None else 0

    def _count_again(self) -> None:
        """Forget files that were never taken and that somebody deleted since."""
        gone = [key for key, file in self._arrived.items() if not file.path.exists()]
        for key in gone:
            del self._arrived[key]
        self._held = sum(self._cost(file) for file in self._arrived.values())

    def _cost(self, file: Arrived) -> int:
        return least_bytes(self._limits) + (file.size if file.whole else 0)
