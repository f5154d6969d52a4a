"""What programs that are no visitors are shown: crawlers, and services that preview links."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import QueryError
from core.search.query_language.parse import parse_query

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TITLE = "TwoLens"
DESCRIPTION = (
    "Two ways to find a picture by words, side by side: generated captions and CLIP. See where "
    "they agree, and where only one of them finds it."
)
PREVIEW_PATH = "/preview.png"
PREVIEW_SIZE = (1200, 630)

_ROBOTS = """\
User-agent: *
Allow: /$
Allow: /preview.png
Disallow: /
"""
_OTHERS_TAGS = re.compile(rb'\s*<meta\s+(?:property="og:|name="twitter:)[^>]*>')
_BASE_TAG = re.compile(rb"<base [^>]*>")


def robots_route() -> Route:
    """Return ``/robots.txt``: the page may be found, its API and its pictures are left alone."""

    def robots(_: Request) -> Response:
        return PlainTextResponse(_ROBOTS)

    return Route("/robots.txt", robots, methods=["GET", "HEAD"])


class LinkPreview:
    """ASGI middleware: puts the page's own title, text and picture in the place of gradio's.

    Services that preview a link read these tags (Open Graph, see https://ogp.me) and run no script.

    Args:
        app: Serves the page.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; all but the page itself is left as it is."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path != "/" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def collecting(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            content = _with_tags(bytes(body), Request(scope)) if start["status"] == 200 else body
            headers = [(k, v) for k, v in start["headers"] if k != b"content-length"]
            headers.append((b"content-length", str(len(content)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": bytes(content)})

        await self._app(scope, receive, collecting)


def _with_tags(page: bytes, request: Request) -> bytes:
    """Return the page with our tags before gradio's script, and none of gradio's."""
    head, script, rest = page.partition(b"<script>")
    head = _OTHERS_TAGS.sub(b"", head)
    base = _BASE_TAG.search(head)
    place = base.end() if base else len(head)
    return head[:place] + _tags(request).encode() + head[place:] + script + rest


def _is_ranked(query: str) -> bool:
    """Tell whether a query looks for something, and does not only filter."""
    try:
        return bool(parse_query(query).parts)
    except QueryError:
        return True


def _tags(request: Request) -> str:
    from gradio.route_utils import get_root_url

    root = get_root_url(request, "/", request.scope.get("root_path"))
    width, height = PREVIEW_SIZE
    query = " ".join(request.query_params.get("q", "").split())[:200]
    title, asked = f"{TITLE}: two ways to find a picture", ""
    if query:
        how = "found by captions and by CLIP" if _is_ranked(query) else "pictures of a gallery"
        title = f"\u201c{query}\u201d, {how}"
        asked = f"?{urlencode({'q': query, 'g': request.query_params.get('g', '')[:200]})}"
    tags = {
        "og:type": "website",
        "og:site_name": TITLE,
        "og:title": title,
        "og:description": DESCRIPTION,
        "og:url": f"{root}/{asked}",
        "og:image": f"{root}{PREVIEW_PATH}{asked}",
        "og:image:width": str(width),
        "og:image:height": str(height),
        "og:image:alt": "What each lens finds first" if query else "Two overlapping circles",
        "twitter:card": "summary_large_image",
    }
    said = (
        f"\n<title>{TITLE}</title>"
        f'\n<meta name="description" content="{html.escape(DESCRIPTION)}" />'
    )
    return said + "".join(
        f'\n<meta {"name" if name.startswith("twitter") else "property"}="{name}" '
        f'content="{html.escape(value)}" />'
        for name, value in tags.items()
    )
