"""Starts the server: what gradio is told, once, about style, routes and safety."""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import partial

import gradio as gr

from core.ui.page import build_page, head, theme
from core.ui.parts.shelf import Shelf
from core.ui.parts.thumbnails import thumbnail_route
from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.inbox import Inbox
from core.ui.uploads.routes import upload_routes
from core.uploads.registry import Uploads

logger = logging.getLogger("twolens")


def launch(
    shelf: Shelf, *, host: str, port: int, block: bool = True, uploads: Uploads | None = None
) -> gr.Blocks:
    """Serve the page and the endpoints.

    Args:
        shelf: The galleries.
        uploads: Visitors' own photos; None leaves out their tab.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        block: Whether to return only when the server stops.

    Returns:
        The running page; its ``local_url`` is where it answers.
    """
    routes = [thumbnail_route(shelf)]
    desk = None
    if uploads is not None:
        # Every component asks gradio for this folder when it is made.
        os.environ["GRADIO_TEMP_DIR"] = str(uploads.inbox)
        inbox = Inbox(uploads.inbox, uploads.limits)
        desk = UploadDesk(uploads, inbox)
        routes += [inbox.route(), *upload_routes(uploads)]
    page = build_page(shelf, desk)
    if desk is not None:
        desk.drop_tab = partial(_drop_shown, page)
    page.queue(max_size=uploads.settings.upload_queue_size if uploads is not None else None)
    page.launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        # Its only use: with it, gradio ends the app if its own page takes over 3 s to answer, as it
        # may on a busy machine where a first query comes while the encoders load.
        _frontend=False,
        # The inbox has limits of its own; without it, gradio's upload route exists all the same.
        max_file_size=None if uploads is not None else "1mb",
        app_kwargs={"routes": routes},
        mcp_server=importlib.util.find_spec("mcp") is not None,
        theme=theme(),
        head=head(),
    )
    logger.info("TwoLens answers on %s", page.local_url)
    if block:
        page.block_thread()
    return page


def _drop_shown(page: gr.Blocks, tab: str) -> None:
    """Drop gradio's copy of what a tab showed, which it would keep long after the tab."""
    session = page.state_holder.session_data.get(tab)
    if session is not None:
        session.config_values.clear()
