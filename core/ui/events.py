"""What every event of the page shares: how it is queued, and what a visitor sees of an error."""

from __future__ import annotations

import functools
import html
import logging
import secrets
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from core.errors import InputError, TwoLensError

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("twolens")

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


def for_page(handler: Callable[P, R]) -> Callable[P, R]:
    """Let a handler's errors reach the visitor as a message; the page shows messages as HTML."""
    return _reporting(handler, html.escape)


def for_endpoint(handler: Callable[P, R]) -> Callable[P, R]:
    """Let a handler's errors reach a caller of the API as plain text."""
    return _reporting(handler, str)


def _reporting(handler: Callable[P, R], shown: Callable[[str], str]) -> Callable[P, R]:
    @functools.wraps(handler)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(*args, **kwargs)
        except TwoLensError as error:
            title = "Please try again" if isinstance(error, InputError) else "This did not work"
            raise gr.Error(shown(str(error)), title=title, print_exception=False) from error
        except Exception as error:
            request_id = secrets.token_hex(4)
            logger.exception("request %s failed in %s", request_id, handler.__name__)
            raise gr.Error(
                f"Something went wrong here, not with what you typed. If you report it, "
                f"give the request id {request_id}.",
                title="This did not work",
                print_exception=False,
            ) from error

    return reporting


def event_value(event: gr.EventData, name: str, longest: int = 20_000) -> str:
    """Return one value that the page sent with an event, as text; "" if absent or not text."""
    data = event._data
    value = data.get(name) if isinstance(data, dict) else None
    return value[:longest] if isinstance(value, str) else ""
