"""Whom a request comes from, directly and through proxies."""

from __future__ import annotations

import gradio as gr
import pytest
from starlette.requests import Request

from core.ui.operation.visitors import address_behind_proxies, visitor_of


def scope_of(peer, forwarded=None):
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    return {"type": "http", "client": (peer, 50_000), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "visitor"),
    [
        ("8.8.4.4", None, "8.8.4.4"),
        ("8.8.4.4", "1.1.1.1", "8.8.4.4"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("10.1.2.3", "8.8.4.4", "8.8.4.4"),
        ("10.1.2.3", "1.1.1.1, 8.8.4.4, 10.9.9.9", "8.8.4.4"),
        ("10.1.2.3", "not an address, ", "10.1.2.3"),
        ("10.1.2.3", "2a00:1450:4001:80b::200e", "2a00:1450:4001:80b::200e"),
    ],
)
def test_a_trusted_proxys_word_counts_only_where_there_is_a_proxy(peer, forwarded, visitor):
    assert address_behind_proxies(scope_of(peer, forwarded)) == visitor


@pytest.mark.parametrize(
    ("peer", "visitor"),
    [
        ("8.8.4.4", "8.8.4.4"),
        ("2a00:1450:4001:80b::200e", "2a00:1450:4001:80b::/64"),
        ("testclient", "unknown"),
    ],
)
def test_a_visitor_is_an_address_and_of_ipv6_a_network(peer, visitor):
    request = gr.Request(Request(scope_of(peer, "1.1.1.1")))
    assert visitor_of(request) == visitor
