"""What every event of the page shares: how it is queued, and what a visitor sees of an error."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.components.api_component import Api

from core.activity import current_request
from core.errors import IndexUnavailableError, InputError, TwoLensError, UnknownImageError

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("twolens")

_SENTENCE_CHARS = 300

SEARCH_EVENT: dict[str, Any] = {
    "queue": False,
    "concurrency_id": "search",
    "concurrency_limit": None,
    "api_visibility": "private",
    "show_progress": "minimal",
    "trigger_mode": "always_last",
}
"""Keyword arguments of a search event: no queue, since a search takes milliseconds."""

PAGE_EVENT: dict[str, Any] = {
    "queue": False,
    "concurrency_id": "page",
    "concurrency_limit": None,
    "api_visibility": "private",
    "show_progress": "hidden",
}
"""Keyword arguments of an event that only redraws a part of the page."""


refusal_statuses: ContextVar[list[int] | None] = ContextVar("refusal_statuses", default=None)
"""Collects, for whoever answers a call, the status of HTTP of what the caller sent amiss."""


server_address: ContextVar[str] = ContextVar("server_address", default="")
"""Address by which a call reached this server, without a slash at its end; "" outside of one."""


class SentenceError(gr.Error):
    """Tells a caller one sentence; as text it is that sentence, where gradio's has quotes."""

    def __init__(self, sentence: str) -> None:
        """Take the sentence; the log gets no traceback of it."""
        super().__init__(sentence, print_exception=False)

    def __str__(self) -> str:
        """Return the sentence."""
        return str(self.message)


class PageBlocks(gr.Blocks):
    """Blocks whose callers get one sentence for whatever goes wrong.

    The log gets no traceback of what a caller sent amiss.
    """

    async def preprocess_data(
        self,
        block_fn: Any,  # noqa: ANN401
        inputs: list[Any],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> list[Any]:
        """Turn what was sent into a handler's arguments, or say that it does not fit.

        Who calls a named endpoint by plain HTTP may leave out its last parameters too.
        """
        left_out = block_fn.inputs[len(inputs) :]
        if all(isinstance(part, Api) for part in left_out):
            inputs = [*inputs, *(part.value for part in left_out)]
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except gr.Error as error:
            _note_status(400)
            raise SentenceError(str(error.message)[:_SENTENCE_CHARS]) from error
        except Exception as error:
            _note_status(400)
            logger.debug("a caller's values do not fit", exc_info=error)
            raise SentenceError(
                "What was sent does not fit this function; see its description."
            ) from error

    async def process_api(self, block_fn: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Answer one call."""
        token = server_address.set(_address_of(kwargs.get("root_path"), kwargs.get("request")))
        try:
            return await super().process_api(block_fn, *args, **kwargs)
        except gr.Error as error:
            _note_refusal(error.__cause__)
            raise
        except Exception as error:
            _note_refusal(error)
            sentence = sentence_for(error, str(getattr(block_fn, "name", block_fn)))
            raise SentenceError(sentence) from error
        finally:
            server_address.reset(token)


def for_endpoint(handler: Callable[P, R]) -> Callable[P, R]:
    """Let a handler's errors reach a caller of the API: a sentence, or the id of the log entry."""

    @functools.wraps(handler)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            sentence = sentence_for(error, handler.__name__)
            raise SentenceError(sentence) from error

    return reporting


def sentence_for(error: Exception, where: str) -> str:
    """Return what a visitor is told of an error, as plain text.

    An error that was not raised on purpose is logged whole under an id that the visitor sees.
    """
    if isinstance(error, TwoLensError):
        return str(error)
    if isinstance(error, gr.Error):  # ZeroGPU's: no GPU is free, or the visitor's quota is used up
        return str(error.message)[:_SENTENCE_CHARS]
    note = current_request.get()
    request_id = note.id if note is not None else secrets.token_hex(4)
    logger.error("request %s failed in %s", request_id, where, exc_info=error)
    return (
        "Something went wrong here, not with what you typed. If you report it, give the request "
        f"id {request_id}."
    )


def _address_of(root: str | None, request: Any) -> str:  # noqa: ANN401 - gradio's or starlette's
    """Return the address of this server, for a call over MCP too, of which gradio gives no root."""
    if root:
        return root
    if request is None:
        return ""
    from gradio.route_utils import API_PREFIX, get_root_url

    return get_root_url(request, "", None).partition(API_PREFIX)[0]


def _note_refusal(error: BaseException | None) -> None:
    if isinstance(error, InputError):
        _note_status(404 if isinstance(error, UnknownImageError) else 400)
    elif isinstance(error, IndexUnavailableError):
        _note_status(503)


def _note_status(status: int) -> None:
    statuses = refusal_statuses.get()
    if statuses is not None:
        statuses.append(status)


def event_value(event: gr.EventData, name: str, longest: int = 20_000) -> str:
    """Return one value that the page sent with an event, as text; "" if absent or not text."""
    data = event._data
    value = data.get(name) if isinstance(data, dict) else None
    return value[:longest] if isinstance(value, str) else ""
