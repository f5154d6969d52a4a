"""Short names of the app's routes, for the log and the metrics.

A path may hold a secret (an upload's) or anything that a client makes up, so neither the log nor
a metric's label shows one.
"""

from __future__ import annotations

import re
from collections.abc import Collection

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"

_CALL = re.compile(r"/gradio_api/(?:run|api|call|call/v2)/([A-Za-z0-9_]{1,64})/?")
_ROUTES = (
    ("page", re.compile("/")),
    ("file", re.compile("/(?:assets|static|svelte)/.+|/favicon.ico|/(?:theme.css|manifest.json)")),
    ("thumbnail", re.compile("/(thumbnails|awaited)/.+")),
    ("map", re.compile("/map/.+")),
    ("upload", re.compile("/gradio_api/upload/?")),
    ("upload_file", re.compile("/uploads/.+")),
    ("event", re.compile("/gradio_api/queue/join")),
    ("stream", re.compile("/gradio_api/(?:queue/data|heartbeat/.+|upload_progress|call/.+)")),
    ("mcp", re.compile("/gradio_api/mcp.*")),
    ("gradio", re.compile("/gradio_api/.+|/config/?")),
    ("health", re.compile(re.escape(HEALTH_PATH))),
    ("metrics", re.compile(re.escape(METRICS_PATH))),
    ("preview", re.compile("/preview.png")),
    ("robots", re.compile("/robots.txt")),
)
_COSTLY = frozenset({"upload", "event", "mcp", "preview"})
OTHER = "other"


def route_name(path: str, endpoints: Collection[str]) -> str:
    """Return the name of the route that a path belongs to.

    Args:
        path: Of a request, below the app's root.
        endpoints: Names of the functions that can be called; a call of one is ``call:NAME``.
    """
    call = _CALL.fullmatch(path)
    if call is not None and call[1] == "predict":
        return "event"  # the page's own calls, by number
    if call is not None:
        return f"call:{call[1]}" if call[1] in endpoints else OTHER
    return next((name for name, pattern in _ROUTES if pattern.fullmatch(path)), OTHER)


def is_costly(route: str, method: str) -> bool:
    """Tell whether a request makes models or the disk work, and so counts for a visitor."""
    if route == "preview":
        return True
    return method == "POST" and (route in _COSTLY or route == OTHER or route.startswith("call:"))
