"""Where a visitor's files arrive: gradio's upload route, replaced by one that can be bounded.

Gradio stores a file under the hash of its content, where whoever has the same file can find it and
two visitors get in each other's way, and a file that is too large ends the whole folder's upload.
Here each request gets a folder of its own with a name nobody can guess, and of what is too much
only the size is kept, so that the rest arrives.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio.route_utils import GradioMultiPartParser, GradioUploadFile, MultiPartException
from gradio.routes import file_upload_statuses
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core.uploads.limits import UploadLimits

UPLOAD_PATH = "/gradio_api/upload"
_FILES_A_REQUEST = 2_000
_LONGEST_FIELD = 10_000
_REQUESTS_THAT_FIT = 4
_LEAST_FREE_BYTES = 1_000_000_000
_SHOWN_S = 5.0


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
    """

    def __init__(self, folder: Path, limits: UploadLimits) -> None:
        """Start empty."""
        self._folder = folder
        self._limits = limits
        self._arrived: dict[str, Arrived] = {}
        self._lock = threading.Lock()

    def route(self) -> Route:
        """Return the route that takes the place of gradio's own."""
        return Route(UPLOAD_PATH, self._receive, methods=["POST"])

    def take(self, path: str) -> Arrived | None:
        """Hand over a file that arrived under this path; None if none did or it was taken."""
        with self._lock:
            arrived = self._arrived.pop(path, None)
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
        if not request.headers.get("Content-Type", "").startswith("multipart/form-data"):
            return PlainTextResponse("Files are sent as multipart/form-data.", status_code=400)
        stored, free = self._stored(), shutil.disk_usage(self._folder).free
        if stored > _REQUESTS_THAT_FIT * self._limits.bytes or free < _LEAST_FREE_BYTES:
            return PlainTextResponse(
                "Too many files are arriving at once; please try again in a minute.",
                status_code=503,
            )
        folder = self._folder / secrets.token_urlsafe(24)
        folder.mkdir(mode=0o700)
        parser = _BoundedParser(request, folder, self._limits)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            shutil.rmtree(folder, ignore_errors=True)
            return PlainTextResponse(error.message, status_code=400)
        except BaseException:  # the visitor went away, or the server stops
            shutil.rmtree(folder, ignore_errors=True)
            raise
        paths = []
        for number, file in enumerate(form.getlist("files")):
            if not isinstance(file, GradioUploadFile):
                continue
            size, whole = parser.sizes[id(file)]
            file.file.close()
            path = folder / str(number)
            os.replace(file.file.name, path)
            if not whole:
                os.truncate(path, 0)
            with self._lock:
                self._arrived[str(path)] = Arrived(path, size, whole)
            paths.append(str(path))
        return JSONResponse(paths)

    def _stored(self) -> int:
        with self._lock:
            gone = [key for key, file in self._arrived.items() if not file.path.exists()]
            for key in gone:
                del self._arrived[key]
            return sum(file.size for file in self._arrived.values() if file.whole)


class _BoundedParser(GradioMultiPartParser):
    """Gradio's parser, which stops writing a file once it is too much.

    Attributes:
        sizes: For each file by its ``id``: bytes sent, and whether they were all kept.
    """

    def __init__(self, request: Request, folder: Path, limits: UploadLimits) -> None:
        upload_id = request.query_params.get("upload_id")
        if upload_id:
            file_upload_statuses.track(upload_id)
        stream: AsyncGenerator[bytes, None] = request.stream()  # type: ignore[assignment]
        super().__init__(
            request.headers,
            stream,
            max_files=_FILES_A_REQUEST,
            upload_dir=folder,
            upload_id=upload_id,
            upload_progress=file_upload_statuses if upload_id else None,
            max_file_size=float("inf"),
        )
        self.sizes: dict[int, tuple[int, bool]] = {}
        self._limits = limits
        self._kept = 0
        self._sent_here = 0
        self._kept_here = 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._sent_here = self._kept_here = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part: Any = self._current_part
        if part.file is None:
            if len(part.data) + end - start > _LONGEST_FIELD:
                raise MultiPartException("A field of the form is too long.")
            part.data += data[start:end]
            return
        self._sent_here += end - start
        room = min(
            self._limits.decode.max_bytes - self._kept_here,
            self._limits.bytes - self._kept - self._kept_here,
        )
        if self._sent_here - (end - start) > self._kept_here or end - start > room:
            return  # too much already: of what follows only the size counts
        self._kept_here += end - start
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        file = self._current_part.file
        if file is not None:
            whole = self._sent_here == self._kept_here
            self.sizes[id(file)] = (self._sent_here, whole)
            if whole:
                self._kept += self._kept_here
        super().on_part_end()
