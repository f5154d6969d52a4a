"""What a browser fetches of an upload: thumbnails and downloads, behind a secret token."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from core.errors import TwoLensError
from core.uploads.exports import captions_csv, captions_jsonl, write_gallery_zip
from core.uploads.registry import Uploads
from core.uploads.session import UploadSession

_IMAGE_ID = re.compile(r"[0-9a-f]{16}")
_CHUNK_BYTES = 1 << 18
_PRIVATE = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def upload_routes(uploads: Uploads) -> list[Route]:
    """Return ``/uploads/{token}/thumbnails|large/{id}.webp`` and ``/uploads/{token}/{download}``.

    A token opens one living upload for reading. Whatever is not there, or no longer, is a plain
    404: the answer does not tell a wrong token from a picture that was removed.
    """

    async def thumbnail(request: Request) -> Response:
        return await _picture(uploads, request, UploadSession.thumbnail)

    async def large(request: Request) -> Response:
        return await _picture(uploads, request, UploadSession.large)

    async def download(request: Request) -> Response:
        session = uploads.by_view_token(request.path_params["token"])
        make = _DOWNLOADS.get(request.path_params["download"])
        if session is None or make is None:
            return _missing()
        try:
            return await run_in_threadpool(make, uploads, session)
        except FileNotFoundError:  # it was forgotten at this moment
            return _missing()
        except TwoLensError as error:
            return PlainTextResponse(str(error), status_code=409, headers=_PRIVATE)

    return [
        Route("/uploads/{token}/thumbnails/{image_id}.webp", thumbnail, methods=["GET", "HEAD"]),
        Route("/uploads/{token}/large/{image_id}.webp", large, methods=["GET", "HEAD"]),
        Route("/uploads/{token}/{download}", download, methods=["GET"]),
    ]


async def _picture(
    uploads: Uploads, request: Request, find: Callable[[UploadSession, str], Path | None]
) -> Response:
    session = uploads.by_view_token(request.path_params["token"])
    image_id = request.path_params["image_id"]
    if session is None or not _IMAGE_ID.fullmatch(image_id):
        return _missing()
    try:
        path = find(session, image_id)
        if path is None:
            return _missing()
        content = await run_in_threadpool(path.read_bytes)
    except (TwoLensError, OSError):
        return _missing()
    return Response(content, media_type="image/webp", headers=_PRIVATE)


def thumbnail_address(session: UploadSession, image_id: str) -> str:
    """Return the address of a thumbnail, relative to the page."""
    return f"uploads/{session.view_token}/thumbnails/{image_id}.webp"


def large_address(session: UploadSession, image_id: str) -> str:
    """Return the address of a large copy, relative to the page; "" if there is none."""
    if session.large(image_id) is None:
        return ""
    return f"uploads/{session.view_token}/large/{image_id}.webp"


def download_address(session: UploadSession, name: str) -> str:
    """Return the address of a download, relative to the page."""
    return f"uploads/{session.view_token}/{name}"


def _missing() -> Response:
    return PlainTextResponse("no such thing", status_code=404, headers=_PRIVATE)


def _text(
    media_type: str, name: str, write: Callable[..., str], uploads: Uploads, session: UploadSession
) -> Response:
    return Response(
        write(session.snapshot.records), media_type=media_type, headers=_attachment(name)
    )


def _gallery(name: str, uploads: Uploads, session: UploadSession) -> Response:
    path = write_gallery_zip(
        session.snapshot, uploads.models.profile, uploads.captioner.spec, session.folder
    )
    file = path.open("rb")
    path.unlink(missing_ok=True)  # what is open can be read; nothing stays, however this ends
    size = os.fstat(file.fileno()).st_size
    headers = {**_attachment(name), "Content-Length": str(size)}
    return StreamingResponse(_chunks(file), media_type="application/zip", headers=headers)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _attachment(name: str) -> dict[str, str]:
    return {**_PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'}


CSV, JSONL, GALLERY = "captions.csv", "captions.jsonl", "gallery.zip"

_DOWNLOADS: dict[str, Callable[[Uploads, UploadSession], Response]] = {
    CSV: partial(_text, "text/csv; charset=utf-8", CSV, captions_csv),
    JSONL: partial(_text, "application/jsonl; charset=utf-8", JSONL, captions_jsonl),
    GALLERY: partial(_gallery, GALLERY),
}
