"""Starts the server: what gradio is told, once, about style, routes and safety."""

from __future__ import annotations

import importlib.util

import gradio as gr

from core.ui.page import build_page, head, theme
from core.ui.shelf import Shelf
from core.ui.thumbnails import thumbnail_route


def launch(shelf: Shelf, *, host: str, port: int, block: bool = True) -> gr.Blocks:
    """Serve the page and the endpoints.

    Args:
        shelf: The galleries.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        block: Whether to return only when the server stops.

    Returns:
        The running page; its ``local_url`` is where it answers.
    """
    page = build_page(shelf)
    page.launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=not block,
        share=False,
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        # The page uploads nothing yet; gradio's upload route exists all the same.
        max_file_size="1mb",
        app_kwargs={"routes": [thumbnail_route(shelf)]},
        mcp_server=importlib.util.find_spec("mcp") is not None,
        theme=theme(),
        head=head(),
    )
    return page
