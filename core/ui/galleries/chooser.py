"""The list that a visitor chooses a gallery from: picture, size and captioner of each."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import TwoLensError
from core.gallery.manifest import Manifest
from core.ui.galleries.listed import ListedGallery
from core.ui.galleries.shelf import Shelf
from core.ui.parts.events import PAGE_EVENT, event_value
from core.ui.parts.markup import escape

_FOR_GOOD = "public, max-age=31536000, immutable"
_NO_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" fill="#8d857640"/>'
    '<path fill="none" stroke="#8d8576" stroke-width="1.5" d="M7 22l6-7 4 4 3-3 5 6z"/></svg>'
)
_BRIDGE = """
element.twolensTrigger = (name, data) => trigger(name, data); // sends 'choose'
"""


class GalleryChooser:
    """The chosen gallery's name, and the list that changes it.

    Attributes:
        name: Holds the name; not shown. Events take it as their gallery.
        view: The button that says it, and the list.
    """

    def __init__(self, shelf: Shelf) -> None:
        """Build both inside the current block."""
        self._shelf = shelf
        self.name = gr.Textbox(
            shelf.names[0] if shelf.listed else "",
            label="Gallery",
            max_lines=1,
            visible="hidden",
            elem_id="gallery",
        )
        self.view = gr.HTML(
            chooser_view(shelf),
            visible=len(shelf.listed) > 1,
            js_on_load=_BRIDGE,
            apply_default_css=False,
            elem_classes=["tl-bare", "tl-gallery"],
        )

    def connect(
        self, on_gallery: Callable[..., list[object]], asked: list[object], answered: list[object]
    ) -> None:
        """Answer for another gallery when a visitor chooses one.

        Args:
            on_gallery: Gets its name, the id of the tab in sight if that has words, and the
                values of ``asked``; returns those of ``answered``.
            asked: Components.
            answered: Components.
        """

        def on_choose(event: gr.EventData, *values: object) -> list[object]:
            name = event_value(event, "name", 1000)
            return [name, *on_gallery(name, event_value(event, "tab", 20), *values)]

        self.view.choose(on_choose, asked, [self.name, *answered], **PAGE_EVENT)
        # Also after an address was restored.
        self.name.change(self._view, self.name, self.view, **PAGE_EVENT)

    def redraw(self) -> None:
        """Begin each page that is opened from now on with the list as it is now."""
        self.name.value = self._shelf.names[0] if self._shelf.listed else ""
        self.view.value = chooser_view(self._shelf)
        self.view.visible = len(self._shelf.listed) > 1

    def _view(self, name: str) -> str:
        return chooser_view(self._shelf, name)


def chooser_view(shelf: Shelf, chosen: str = "") -> str:
    """Return the button that names the chosen gallery, and the list behind it.

    Args:
        shelf: The galleries.
        chosen: Name of a gallery; another text is taken for the first one.
    """
    if not shelf.listed:
        return ""
    try:
        now = shelf.find(chosen)
    except TwoLensError:
        now = shelf.listed[0]
    items = "".join(_item(listed, listed is now) for listed in shelf.listed)
    return (
        '<button type="button" class="tl-gallery-now" aria-haspopup="dialog" '
        f'aria-label="Gallery: {escape(now.name)}. Choose another">{_cover(now)}'
        f'<span class="tl-gallery-name">{escape(now.name)}</span>'
        '<svg viewBox="0 0 12 8" width="12" height="8" aria-hidden="true" focusable="false">'
        '<path d="M1 1.5l5 5 5-5" fill="none" stroke="currentColor" stroke-width="1.8"/></svg>'
        '</button><div popover class="tl-gallery-list" role="dialog" aria-label="Galleries">'
        f"<ul>{items}</ul></div>"
    )


def _item(listed: ListedGallery, is_now: bool) -> str:
    current = ' aria-current="true"' if is_now else ""
    facts = listed.trouble.replace(f"{listed.name} c", "C", 1) or _facts(listed.manifest)
    trouble = " is-closed" if listed.trouble else ""
    return (
        f'<li><button type="button" class="tl-gallery-item{trouble}" '
        f'data-gallery="{escape(listed.name)}"{current}>{_cover(listed)}'
        f'<span><span class="tl-gallery-name">{escape(listed.name)}</span>'
        f"<small>{escape(facts)}</small></span></button></li>"
    )


def _facts(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    count = manifest.counts.images
    pictures = "1 picture" if count == 1 else f"{count:,} pictures"
    if manifest.captioner is None:
        return f"{pictures} · captions by its source"
    return f"{pictures} · captions by {manifest.captioner.name}"


def _cover(listed: ListedGallery) -> str:
    seal = (listed.manifest.self_sha256 or "")[:12] if listed.manifest else ""
    address = f"thumbnails/{quote(listed.slug)}/cover.webp?v={seal}"
    return f'<img src="{address}" alt="" width="44" height="44" loading="lazy" decoding="async">'


def cover_route(shelf: Shelf) -> Route:
    """Return ``/thumbnails/{gallery}/cover.webp``: a picture of it, or a drawing for none.

    It opens no gallery. The address changes with the gallery, so a picture may be kept for good.
    """

    def read(slug: str) -> bytes | None:
        return shelf.find(slug).cover()

    async def cover(request: Request) -> Response:
        try:
            content = await run_in_threadpool(read, request.path_params["gallery"])
        except TwoLensError:
            return PlainTextResponse("no such gallery", status_code=404)
        if content is None:
            without = {"Cache-Control": "no-store"}
            return Response(_NO_PICTURE, media_type="image/svg+xml", headers=without)
        return Response(content, media_type="image/webp", headers={"Cache-Control": _FOR_GOOD})

    return Route("/thumbnails/{gallery}/cover.webp", cover, methods=["GET", "HEAD"])
