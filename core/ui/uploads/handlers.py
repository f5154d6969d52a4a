"""What happens when a visitor does something in the tab Your photos."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from core.search.query import picture_count
from core.ui.galleries.shelf import Shelf
from core.ui.operation.visitors import visitor_of
from core.ui.parts.events import event_value, sentence_for
from core.ui.parts.markup import escape, stage
from core.ui.parts.query.picture_query import picture_state
from core.ui.parts.results.paging import browse_answer, page_start, start_of
from core.ui.parts.results.similar import similar_answer
from core.ui.parts.results.states import answered, start_state
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
    """The tab's events. The session of a request tells whose upload is meant.

    A method returns values for the components that :mod:`core.ui.uploads.tab` connects it to; an
    error becomes a sentence in one of them.

    Args:
        desk: What does the work.
    """

    def __init__(self, desk: UploadDesk) -> None:
        """Serve all visitors of one app."""
        self._desk = desk
        self._searched: WeakKeyDictionary[UploadSession, int] = WeakKeyDictionary()

    def on_files(self, sent: Any, request: gr.Request) -> tuple:  # noqa: ANN401
        """Files arrived: an empty sender and the state."""
        if not sent:
            return None, gr.skip()
        desk = self._desk
        try:
            session = desk.take_in(request.session_hash, sent, visitor_of(request))
        except Exception as error:
            return None, trouble_view(sentence_for(error, "taking files in"))
        return None, ready_view(desk.uploads, session)

    def on_describe(self, request: gr.Request) -> Iterator[tuple]:
        """Describe what waits: the state again and again; results, table, downloads at the end."""
        unchanged = (gr.skip(),) * 3
        session = self._desk.find(request.session_hash)
        try:
            if session is None or not session.waiting:
                sentence = "Add photos first; then they can be described."
                yield trouble_view(sentence, session), *unchanged
                return
            for found, progress in self._desk.describe(request.session_hash):
                if found.ended:
                    return  # the page says already that it is forgotten
                if progress.finished:
                    yield finished_view(found, progress, self._more(found)), *self._after(found)
                else:
                    yield running_view(found, progress, self._more(found)), *unchanged
        except Exception as error:
            yield trouble_view(sentence_for(error, "describing"), session), *self._after(session)

    def on_stop(self, request: gr.Request) -> tuple:
        """End the run after the batch it is at; before it began: the state, and a new word.

        The change of that word is what gives up the place in the queue.
        """
        session = self._desk.find(request.session_hash)
        if session is None or not (session.is_busy or session.waiting):
            return gr.skip(), gr.skip()
        session.stop()
        if session.is_busy:
            return gr.skip(), gr.skip()  # the run itself says what it did
        return given_up_view(session), secrets.token_hex(8)

    def on_search(
        self, query: str, k: object, more: str, request: gr.Request, start: str = "0"
    ) -> str:
        """Compare both lenses on what is described so far: the results."""
        shelf = self._shelf(request)
        if shelf is None:
            return no_photos()

        def found() -> str:
            return answer(shelf, query, k, "", start=page_start(start), more=more or "")

        return answered(shelf, None, found)

    def on_pick(
        self, k: object, more: str, event: gr.EventData, request: gr.Request
    ) -> tuple[str, str]:
        """An example was chosen: the query and the results."""
        query = event_value(event, "query")
        return query, self.on_search(query, k, more, request)

    def on_more(self, k: object, event: gr.EventData, request: gr.Request) -> tuple[str, str]:
        """Words in captions are switched on or off: what is shown now, and the results."""
        more = event_value(event, "more", 20)
        return more, self.on_search(event_value(event, "query"), k, more, request)

    def on_similar(self, k: object, event: gr.EventData, request: gr.Request) -> str:
        """Search onward from a picture: the results."""
        shelf = self._shelf(request)
        if shelf is None:
            return no_photos()
        return answered(shelf, None, lambda: similar_answer(shelf, event, k, ""))

    def on_page(self, k: object, more: str, event: gr.EventData, request: gr.Request) -> str:
        """Look through a ranking, or through all photos: the results."""
        query = event_value(event, "query")
        if query:
            return self.on_search(query, k, more, request, event_value(event, "start", 20))
        shelf = self._shelf(request)
        return (
            answered(shelf, None, lambda: browse_answer(shelf, None, start_of(event)))
            if shelf
            else no_photos()
        )

    def on_picture(self, file: Any, k: object, request: gr.Request) -> tuple:  # noqa: ANN401
        """A picture to search by was sent: an empty sender and the results."""
        if not file:
            return gr.skip(), gr.skip()
        shelf = self._shelf(request)
        if shelf is None:
            self._desk.discard(file)
            return None, no_photos()

        def shown() -> str:
            return picture_state(shelf.entry(), self._desk.take_picture(file), picture_count(k))

        return None, answered(shelf, None, shown)

    def on_correct(self, event: gr.EventData, request: gr.Request) -> str:
        """A caption was changed: a line that says so."""
        try:
            session = self._desk.get(request.session_hash)
            image_id, caption = event_value(event, "id"), event_value(event, "caption")
            record = self._desk.uploads.correct(session, image_id, caption)
        except Exception as error:
            return _saved(sentence_for(error, "correcting"), bad=True)
        return _saved(f"Saved: {record.caption}")

    def on_remove(self, event: gr.EventData, request: gr.Request) -> tuple:
        """A picture goes: a line that says so, state, results, table, downloads."""
        try:
            session = self._desk.get(request.session_hash)
            record = session.snapshot.record(event_value(event, "id"))
            session.remove(record.id)
        except Exception as error:
            return _saved(sentence_for(error, "removing"), bad=True), *(gr.skip(),) * 4
        self._searched.pop(session, None)
        state = ready_view(self._desk.uploads, session)
        return _saved(f"Removed: {record.file_name}"), state, *self._after(session)

    def on_forget(self, request: gr.Request) -> tuple:
        """Delete everything: state, results, table, downloads, line, query."""
        gone = self._desk.forget(request.session_hash)
        sentence = FORGOTTEN if gone else "There is nothing to forget."
        return nothing_view(sentence), no_photos(), captions_table(None), "", "", ""

    def on_resume(self, event: gr.EventData, request: gr.Request) -> tuple:
        """The page was loaded again by who had an upload: state, results, table, downloads."""
        session = self._desk.resume(request.session_hash, event_value(event, "token"))
        if session is None:
            return nothing_view(), *(gr.skip(),) * 3
        return ready_view(self._desk.uploads, session), *self._after(session)

    def on_unload(self, request: gr.Request) -> None:
        """The tab was closed or reloaded."""
        self._desk.tab_closed(request.session_hash)

    def _shelf(self, request: gr.Request) -> Shelf | None:
        """Return what can be searched, and remember that the visitor does."""
        session = self._desk.find(request.session_hash)
        if session is None or not len(session.snapshot):
            return None
        self._searched[session] = len(session.snapshot)
        return self._desk.shelf(session)

    def _more(self, session: UploadSession) -> int:
        """Return how many pictures came since the visitor last searched; 0 if they never did."""
        return len(session.snapshot) - self._searched.get(session, len(session.snapshot))

    def _after(self, session: UploadSession | None) -> tuple:
        """Return results, table and downloads for what is described now."""
        if session is None or session.ended or not len(session.snapshot):
            return no_photos(), captions_table(None), downloads_view(None)
        searched = session in self._searched
        results = gr.skip() if searched else start_state(self._desk.shelf(session), None)
        return results, captions_table(session), downloads_view(session)


def no_photos() -> str:
    """Return the results area of a visitor without described photos."""
    return stage(
        '<section class="tl-notice"><p>Results from your photos will appear here.</p></section>',
        "",
    )


def _saved(sentence: str, *, bad: bool = False) -> str:
    role, extra = ("alert", " bad") if bad else ("status", "")
    return f'<p class="tl-said{extra}" role="{role}">{escape(sentence)}</p>'
