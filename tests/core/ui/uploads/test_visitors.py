"""Whom a request comes from, directly and through proxies."""

from __future__ import annotations

import gradio as gr
import pytest
from starlette.requests import Request

from core.ui.uploads.visitors import visitor_of


@pytest.mark.parametrize(
    ("peer", "forwarded", "visitor"),
    [
        ("8.8.4.4", None, "8.8.4.4"),
        ("8.8.4.4", "1.1.1.1", "8.8.4.4"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("10.1.2.3", "8.8.4.4", "8.8.4.4"),
        ("10.1.2.3", "1.1.1.1, 8.8.4.4, 10.9.9.9", "8.8.4.4"),
        ("10.1.2.3", "not an address, ", "10.1.2.3"),
        ("2a00:1450:4001:80b::200e", None, "2a00:1450:4001:80b::/64"),
        ("testclient", None, "unknown"),
    ],
)
def test_a_proxys_word_counts_only_where_there_is_a_proxy(peer, forwarded, visitor):
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    scope = {"type": "http", "client": (peer, 50_000), "headers": headers}
    assert visitor_of(gr.Request(Request(scope))) == visitor
