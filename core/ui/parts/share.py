"""Views that have an address: what a results area says of itself, and how one is shown again.

The page's script (``static/share.js``) keeps the address of what is shown in the browser's history,
and sends ``restore`` when a visitor comes with such an address or goes back to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import gradio as gr

from core.ui.parts.events import event_value
from core.ui.parts.markup import escape

_LONGEST = 2000

SHARE_BRIDGE = """
window.twolensRestore = (view) => trigger('restore', view);
window.dispatchEvent(new Event('twolens:restorable'));
"""
"""Lets the page's own script ask for a view."""


@dataclass(frozen=True, slots=True)
class View:
    """What is shown, as texts from a visitor: each is checked where it is used.

    Attributes:
        tab: Id of the tab.
        q: The words that were searched.
        g: Name of the gallery; "" for the first.
        k: Pictures that were asked for.
        index: Kind of the index.
        nprobe: Clusters that an IVF search looks into.
        s: ``captions:ID`` or ``clip:ID`` where pictures like one of the gallery are shown, found
            by that lens; else "".
        more: What is shown beside both lenses; "" for nothing.
        start: Pictures before the page of a ranking, or of the gallery, that is shown; "" for none.
    """

    tab: str
    q: str
    g: str
    k: str = "5"
    index: str = "flat"
    nprobe: str = ""
    s: str = ""
    start: str = ""
    more: str = ""

    @classmethod
    def of(cls, event: gr.EventData) -> View:
        """Read what the page's script sent; what is missing is as when the page is opened."""
        sent = {
            name: event_value(event, name, _LONGEST)
            for name in ("tab", "q", "g", "index", "nprobe", "s", "start", "more")
        }
        return cls(
            tab=sent["tab"] or "compare",
            q=sent["q"],
            g=sent["g"],
            k=event_value(event, "k", _LONGEST) or "5",
            index=sent["index"] or "flat",
            nprobe=sent["nprobe"],
            s=sent["s"],
            start=sent["start"],
            more=sent["more"],
        )

    @property
    def pictures(self) -> float | str:
        """How many pictures were asked for, as a number if it is one."""
        return _number(self.k)

    @property
    def clusters(self) -> int:
        """How many clusters an IVF search looks into; 0 where it does not say."""
        found = _number(self.nprobe)
        return int(found) if isinstance(found, float) and 1 <= found <= 1_000_000 else 0


def addressed(view: View, answer: str) -> str:
    """Return a results area that tells the page's script which view it is."""
    if not (view.q.strip() or view.s or view.start):
        return answer
    told = escape(json.dumps(asdict(view), ensure_ascii=False))
    return f'<data class="tl-address" data-address="{told}" hidden></data>{answer}'


SHARE_BUTTON = '<button type="button" class="tl-pill tl-share">Share</button>'
"""Opens what the page's script has to share: address, picture, and the call of the API."""


def as_text(number: object) -> str:
    """Return a number as an address has it: 5 for 5.0; at most a few characters of anything."""
    whole = isinstance(number, float) and number.is_integer()
    return str(int(number) if whole else number)[:20]  # type: ignore[call-overload]


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if abs(value) < 1e6 else text
