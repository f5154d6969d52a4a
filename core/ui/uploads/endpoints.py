"""An upload through the API: what the tab does, with JSON for an answer.

A caller's upload belongs to the session of their client; no endpoint takes an id of an upload.
They are left out of the API's documentation and of the MCP server, which has no such sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import UploadError
from core.ui.api import compare_json, similar_json
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.operation.visitors import visitor_of
from core.ui.parts.events import SentenceError, for_endpoint, sentence_for
from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.routes import CSV, GALLERY, JSONL, download_address, thumbnail_address
from core.ui.uploads.tab import DESCRIBE_EVENT
from core.ui.why import why_json
from core.uploads.intake import Progress
from core.uploads.session import UploadSession

_ENDPOINT: dict[str, Any] = {
    "queue": False,
    "concurrency_id": "search",
    "concurrency_limit": None,
    "api_visibility": "undocumented",
}

_NOTICES_AN_ANSWER = 20


def add_upload_endpoints(desk: UploadDesk) -> None:
    """Add the endpoints to the current ``gr.Blocks``.

    ``/upload_add(files)``, ``/upload_describe()`` (reports progress, then the pictures),
    ``/upload_stop()``, ``/upload_compare(query, k)``, ``/upload_similar(image_id, lens, k)``,
    ``/upload_why(query, image_id, token)``, ``/upload_correct(image_id, caption)``,
    ``/upload_remove(image_id)``, ``/upload_forget()``.

    Args:
        desk: What does the work.
    """
    with gr.Row(visible=False):
        files = gr.File(file_count="multiple")
        first, second, third = gr.Textbox(), gr.Textbox(), gr.Textbox()
        k = gr.Number(5)
        answer = gr.JSON()
        trigger = gr.Button()

    on = UploadEndpoints(desk)

    def add(handler: Any, name: str, inputs: list, **options: Any) -> None:  # noqa: ANN401
        trigger.click(handler, inputs, answer, api_name=name, **{**_ENDPOINT, **options})

    add(on.on_add, "upload_add", [files], preprocess=False)
    add(on.on_describe, "upload_describe", [], **DESCRIBE_EVENT, queue=True)
    add(on.on_stop, "upload_stop", [])
    add(on.on_compare, "upload_compare", [first, k])
    add(on.on_similar, "upload_similar", [first, second, k])
    # As for galleries: searches do not wait for an explanation, which runs an image tower.
    add(on.on_why, "upload_why", [first, second, third], concurrency_id="why", concurrency_limit=2)
    add(on.on_correct, "upload_correct", [first, second])
    add(on.on_remove, "upload_remove", [first])
    add(on.on_forget, "upload_forget", [])


class UploadEndpoints:
    """One method an endpoint; the session of its request tells whose upload is meant."""

    def __init__(self, desk: UploadDesk) -> None:
        """Answer for the uploads of a desk."""
        self._desk = desk

    @for_endpoint
    def on_add(self, sent: Any, request: gr.Request) -> dict[str, Any]:  # noqa: ANN401
        """Take in files."""
        return _facts(self._desk.take_in(request.session_hash, sent, visitor_of(request)))

    def on_describe(self, request: gr.Request) -> Iterator[dict[str, Any]]:
        """Describe what waits; the last answer holds the pictures."""
        try:
            for session, progress in self._desk.describe(request.session_hash):
                yield _progress(session, progress)
        except Exception as error:
            sentence = sentence_for(error, "describing")
            raise SentenceError(sentence) from error

    @for_endpoint
    def on_stop(self, request: gr.Request) -> dict[str, Any]:
        """End the run after the batch it is at."""
        session = self._desk.get(request.session_hash)
        session.stop()
        return _facts(session)

    @for_endpoint
    def on_compare(self, query: str, count: float, request: gr.Request) -> dict[str, Any]:
        """Answer as ``/compare`` does."""
        return compare_json(_entry(self._desk, request), query, count)

    @for_endpoint
    def on_similar(
        self, image_id: str, lens: str, count: float, request: gr.Request
    ) -> dict[str, Any]:
        """Answer as ``/similar`` does."""
        return similar_json(_entry(self._desk, request), image_id, lens, count)  # type: ignore[arg-type]

    @for_endpoint
    def on_why(self, query: str, image_id: str, token: str) -> dict[str, Any]:
        """Answer as ``/why`` does, for whoever has the secret of the pictures' own addresses."""
        session = self._desk.uploads.by_view_token(token)
        if session is None:
            raise UploadError("There is no upload here, or it was forgotten; add your photos.")
        return why_json(_searchable(self._desk, session), query, image_id)

    @for_endpoint
    def on_correct(self, image_id: str, caption: str, request: gr.Request) -> dict[str, Any]:
        """Replace a caption."""
        session = self._desk.get(request.session_hash)
        self._desk.uploads.correct(session, image_id, caption)
        return _facts(session)

    @for_endpoint
    def on_remove(self, image_id: str, request: gr.Request) -> dict[str, Any]:
        """Remove a picture."""
        session = self._desk.get(request.session_hash)
        session.remove(image_id)
        return _facts(session)

    def on_forget(self, request: gr.Request) -> dict[str, bool]:
        """Delete everything."""
        return {"forgotten": self._desk.forget(request.session_hash)}


def _entry(desk: UploadDesk, request: gr.Request) -> ShelvedGallery:
    return _searchable(desk, desk.get(request.session_hash))


def _searchable(desk: UploadDesk, session: UploadSession) -> ShelvedGallery:
    shelf = desk.shelf(session)
    if not shelf.entries:
        raise UploadError("No photo is searchable yet: add some, then have them described.")
    return shelf.entry()


def _progress(session: UploadSession, progress: Progress) -> dict[str, Any]:
    facts = {
        "settled": progress.settled,
        "total": progress.total,
        "described": progress.described,
        "images_per_s": progress.images_per_s,
        "left_s": progress.left_s,
        "stopped": progress.stopped,
    }
    return {**facts, **_facts(session)} if progress.finished else facts


def _facts(session: UploadSession) -> dict[str, Any]:
    return {
        "waiting": [file.file_name for file in session.waiting],
        "pictures": [
            {
                "id": record.id,
                "file_name": record.file_name,
                "caption": record.caption,
                "caption_flags": list(record.caption_flags),
                "confidence": record.confidence,
                "thumbnail": thumbnail_address(session, record.id),
            }
            for record in session.snapshot.records
        ],
        "notices": [
            {"kind": notice.kind, "file_name": notice.file_name, "reason": notice.reason}
            for notice in session.notices.newest(_NOTICES_AN_ANSWER)
        ],
        "notices_in_all": session.notices.total,
        "side_files": session.notices.side_files,
        "downloads": {name: download_address(session, name) for name in (CSV, JSONL, GALLERY)},
    }
