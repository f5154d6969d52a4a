"""What happens when a visitor does something in the tab Your photos."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.ui.parts.events import event_value, sentence_for
from core.ui.parts.markup import escape, stage
from core.ui.parts.picture_query import picture_state
from core.ui.parts.search_box import picture_count
from core.ui.parts.shelf import Shelf
from core.ui.parts.similar import similar_answer
from core.ui.parts.states import answered, start_state
from core.ui.tabs.compare import answer
from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.views import (
    FORGOTTEN,
    captions_table,
    downloads_view,
    finished_view,
    given_up_view,
    nothing_view,
    ready_view,
    running_view,
    trouble_view,
)
from core.uploads.session import UploadSession


class UploadHandlers:
    """The tab's events. Each takes the secret id of the visitor's upload, or None.

    A method returns values for the components that :mod:`core.ui.uploads.tab` connects it to; an
    error becomes a sentence in one of them.

    Args:
        desk: What does the work.
    """

    def __init__(self, desk: UploadDesk) -> None:
        """Serve all visitors of one app."""
        self._desk = desk
        self._searched: set[str] = set()

    def on_files(self, upload_id: str | None, sent: Any, request: gr.Request) -> tuple:  # noqa: ANN401
        """Files arrived: the id of the upload, an empty sender, and the state."""
        if not sent:
            return upload_id, None, gr.skip()
        desk = self._desk
        try:
            session = desk.take_in(upload_id, sent, request.session_hash)
        except Exception as error:
            return upload_id, None, trouble_view(sentence_for(error, "taking files in"))
        return session.id, None, ready_view(desk.uploads, session)

    def on_describe(self, upload_id: str | None) -> Iterator[tuple]:
        """Describe what waits: the state again and again; results, table, downloads at the end."""
        unchanged = (gr.skip(),) * 3
        session = self._desk.find(upload_id)
        try:
            if session is None or not session.waiting:
                said = "Add photos first; then they can be described."
                yield trouble_view(said, session), *unchanged
                return
            self._searched.discard(session.id)
            for found, progress in self._desk.describe(upload_id):
                if found.ended:
                    return  # the page says already that it is forgotten
                if progress.finished:
                    yield finished_view(found, progress), *self._after(found)
                else:
                    yield running_view(found, progress), *unchanged
        except Exception as error:
            yield trouble_view(sentence_for(error, "describing"), session), *self._after(session)

    def on_stop(self, upload_id: str | None) -> tuple:
        """End the run after the batch it is at; before it began: the state, and a new word.

        The change of that word is what gives up the place in the queue.
        """
        session = self._desk.find(upload_id)
        if session is None or not (session.is_busy or session.waiting):
            return gr.skip(), gr.skip()
        session.stop()
        if session.is_busy:
            return gr.skip(), gr.skip()  # the run itself says what it did
        return given_up_view(session), secrets.token_hex(8)

    def on_search(self, query: str, k: object, upload_id: str | None) -> str:
        """Compare both lenses on what is described so far: the results."""
        shelf = self._shelf(upload_id)
        return answered(shelf, None, lambda: answer(shelf, query, k, "")) if shelf else no_photos()

    def on_pick(self, k: object, upload_id: str | None, event: gr.EventData) -> tuple[str, str]:
        """An example was chosen: the query and the results."""
        query = event_value(event, "query")
        return query, self.on_search(query, k, upload_id)

    def on_similar(self, k: object, upload_id: str | None, event: gr.EventData) -> str:
        """Search onward from a picture: the results."""
        shelf = self._shelf(upload_id)
        if shelf is None:
            return no_photos()
        return answered(shelf, None, lambda: similar_answer(shelf, event, k, ""))

    def on_picture(self, file: Any, k: object, upload_id: str | None) -> tuple:  # noqa: ANN401
        """A picture to search by was sent: an empty sender and the results."""
        if not file:
            return gr.skip(), gr.skip()
        shelf = self._shelf(upload_id)
        if shelf is None:
            self._desk.discard(file)
            return None, no_photos()

        def shown() -> str:
            return picture_state(shelf.entry(), self._desk.take_picture(file), picture_count(k))

        return None, answered(shelf, None, shown)

    def on_correct(self, upload_id: str | None, event: gr.EventData) -> str:
        """A caption was changed: a line that says so."""
        try:
            uploads = self._desk.uploads
            session = uploads.get(upload_id)
            image_id, caption = event_value(event, "id"), event_value(event, "caption")
            record = uploads.correct(session, image_id, caption)
        except Exception as error:
            return _saved(sentence_for(error, "correcting"), bad=True)
        return _saved(f"Saved: {record.caption}")

    def on_remove(self, upload_id: str | None, event: gr.EventData) -> tuple:
        """A picture goes: a line that says so, state, results, table, downloads."""
        try:
            session = self._desk.uploads.get(upload_id)
            record = session.snapshot.record(event_value(event, "id"))
            session.remove(record.id)
        except Exception as error:
            return _saved(sentence_for(error, "removing"), bad=True), *(gr.skip(),) * 4
        self._searched.discard(session.id)
        state = ready_view(self._desk.uploads, session)
        return _saved(f"Removed: {record.file_name}"), state, *self._after(session)

    def on_forget(self, upload_id: str | None) -> tuple:
        """Delete everything: no id, state, results, table, downloads, line, query."""
        self._searched.discard(upload_id or "")
        said = FORGOTTEN if self._desk.forget(upload_id) else "There is nothing to forget."
        return None, nothing_view(said), no_photos(), captions_table(None), "", "", ""

    def on_unload(self, request: gr.Request) -> None:
        """The tab was closed or reloaded."""
        self._desk.tab_closed(request.session_hash)

    def _shelf(self, upload_id: str | None) -> Shelf | None:
        """Return what can be searched, and remember that the visitor does."""
        session = self._desk.find(upload_id)
        if session is None or not len(session.snapshot):
            return None
        self._searched.add(session.id)
        return self._desk.shelf(session)

    def _after(self, session: UploadSession | None) -> tuple:
        """Return results, table and downloads for what is described now."""
        if session is None or session.ended or not len(session.snapshot):
            return no_photos(), captions_table(None), downloads_view(None)
        searched = session.id in self._searched
        results = gr.skip() if searched else start_state(self._desk.shelf(session), None)
        return results, captions_table(session), downloads_view(session)


def no_photos() -> str:
    """Return the results area of a visitor without described photos."""
    return stage(
        '<section class="tl-notice"><p>Results from your own photos will stand here.</p></section>',
        "",
    )


def _saved(sentence: str, *, bad: bool = False) -> str:
    role, extra = ("alert", " bad") if bad else ("status", "")
    return f'<p class="tl-said{extra}" role="{role}">{escape(sentence)}</p>'
