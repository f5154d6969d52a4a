"""Starts the server: what gradio is told, once, about style, routes and safety."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.api_component import Api
from starlette.middleware import Middleware

from core.config import Settings, get_settings
from core.duel.votes import Votes
from core.ui.connections import bound_connections
from core.ui.galleries.chooser import cover_route
from core.ui.galleries.shelf import Shelf
from core.ui.guard import Guard, RequestLimits
from core.ui.mcp_answers import answer_agents_in_json
from core.ui.operation.front_door import FrontDoor
from core.ui.operation.health import Health
from core.ui.operation.link_preview import LinkPreview, robots_route
from core.ui.operation.preview_picture import preview_route
from core.ui.operation.prometheus import Metrics
from core.ui.page import build_page, head, theme
from core.ui.parts.thumbnails import picture_routes
from core.ui.request_bodies import Function
from core.ui.sessions import MOST_SESSIONS, Sessions
from core.ui.tabs.map_routes import map_routes
from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.inbox import Inbox
from core.ui.uploads.routes import upload_routes
from core.uploads.registry import Uploads

logger = logging.getLogger("twolens")


if TYPE_CHECKING:
    from starlette.applications import Starlette


def launch(
    shelf: Shelf,
    *,
    host: str,
    port: int,
    block: bool = True,
    uploads: Uploads | None = None,
    settings: Settings | None = None,
    health: Health | None = None,
    votes: Votes | None = None,
) -> gr.Blocks:
    """Serve the page and the endpoints.

    Args:
        shelf: The galleries.
        uploads: Visitors' own photos; None leaves out their tab.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        block: Whether to return only when the server stops.
        settings: Hold the limits of requests; those of the uploads or of the environment if None.
        votes: Keeps the votes of blind duels; None leaves out their tab.
        health: What ``/health`` tells; None for that of a shelf which is not being warmed up.

    Returns:
        The running page; its ``local_url`` is where it answers.
    """
    settings = settings or (uploads.settings if uploads is not None else get_settings())
    limits = RequestLimits.of(settings, uploads.inbox if uploads is not None else None)
    health = health or Health(shelf)
    routes = [cover_route(shelf), *picture_routes(shelf), health.route()]
    routes += [robots_route(), preview_route(shelf), *map_routes(shelf)]
    desk = None
    if uploads is not None:
        # Every component asks gradio for this folder when it is made.
        os.environ["GRADIO_TEMP_DIR"] = str(uploads.inbox)
        inbox = Inbox(uploads.inbox, uploads.limits, settings.upload_free_bytes)
        desk = UploadDesk(uploads, inbox)
        routes += [*inbox.routes(), *upload_routes(uploads)]
    page = build_page(shelf, desk, votes)
    functions = _functions(page)
    metrics = _metrics(page, health, uploads) if settings.metrics else None
    if metrics is not None:
        routes.append(metrics.route())
    middleware = [
        Middleware(
            FrontDoor, settings, {one.name for one in functions.values() if one.name}, metrics
        ),
        Middleware(LinkPreview),
        Middleware(Guard, limits, functions, partial(_unread, page)),
    ]
    # The front door alone decides whom to believe about a visitor's address.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    page.queue(max_size=uploads.settings.upload_queue_size if uploads is not None else None)
    page.launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        # Its only use: with it, gradio ends the app if its own page takes over 3 s to answer, as it
        # may on a busy machine where a first query comes while the encoders load.
        _frontend=False,
        # The inbox has limits of its own; without it, gradio's upload route exists all the same.
        max_file_size=None if uploads is not None else "1mb",
        app_kwargs={"routes": routes, "middleware": middleware, "lifespan": _forgetful},
        state_session_capacity=MOST_SESSIONS,
        mcp_server=importlib.util.find_spec("mcp") is not None,
        theme=theme(),
        head=head(),
    )
    answer_agents_in_json(page)
    bound_connections(page.server.config, limits.connections, limits.seconds)
    logger.info("TwoLens answers on %s", page.local_url)
    if block:
        page.block_thread()
    return page


def _metrics(page: gr.Blocks, health: Health, uploads: Uploads | None) -> Metrics:
    gauges: dict[tuple[str, str], Callable[[], float]] = {
        ("twolens_ready", "1 if a search would be answered."): lambda: float(health.is_ready),
        ("twolens_queue", "Events that wait for their turn."): lambda: len(page._queue),
    }
    if uploads is not None:
        gauges["twolens_uploads", "Uploads that live."] = lambda: len(uploads)
    return Metrics(gauges)


def _functions(page: gr.Blocks) -> Mapping[int, Function]:
    return {
        number: Function(
            function.api_name if isinstance(function.api_name, str) else None,
            any(isinstance(block, (gr.File, gr.Image)) for block in function.inputs),
            _counts(function),
        )
        for number, function in page.fns.items()
        if function.fn is not None  # else it is a script of the page
    }


def _counts(function: Any) -> range | None:  # noqa: ANN401 - gradio's own
    """Return how many values a function of the API takes; None for events of the page."""
    if function.api_visibility != "public" or not all(
        isinstance(block, Api) for block in function.inputs
    ):
        return None
    parameters = signature(function.fn).parameters.values()
    return range(sum(each.default is each.empty for each in parameters), len(parameters) + 1)


def _unread(page: gr.Blocks, tab: str) -> int:
    return len(page._queue.pending_event_ids_session.get(tab, ()))


@asynccontextmanager
async def _forgetful(app: Starlette) -> AsyncIterator[None]:
    """Put sessions that keep nothing in the place of gradio's, before the first request."""
    gradio_app: Any = app
    gradio_app.state_holder = Sessions(gradio_app.get_blocks())
    yield
