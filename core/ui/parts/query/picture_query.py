"""Searching by a picture from the visitor's disk, clipboard or camera, through the CLIP lens."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import gradio as gr

from core.errors import QueryError
from core.images.thumbnails import thumbnail_webp
from core.search.query import picture_count
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import SEARCH_EVENT
from core.ui.parts.markup import stage
from core.ui.parts.results.cards import Standing, hit_row
from core.ui.parts.results.states import (
    answered,
    details,
    examples_line,
    lens_heading,
    one_lens_skeleton,
    timing,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.ui.uploads.desk import UploadDesk


def picture_query(name: str) -> gr.Image:
    """Build the place to drop, paste or take a picture, inside the current block.

    Its events need ``preprocess=False``: no file is decoded but by :mod:`core.images`.

    Args:
        name: Makes the id of the element unique: ``NAME-picture``.
    """
    with gr.Accordion(
        "Search by a picture", open=False, elem_classes=["tl-by-picture"], elem_id=f"{name}-by"
    ):
        return gr.Image(
            label="Drop, paste or take a picture",
            sources=["upload", "clipboard", "webcam"],
            type="filepath",
            height=220,
            elem_id=f"{name}-picture",
        )


def connect_picture_query(
    ask: gr.Image,
    desk: UploadDesk,
    shelf: Shelf,
    k: gr.Component,
    gallery: gr.Component,
    results: gr.HTML,
) -> None:
    """Let a picture that is sent search the shared galleries.

    Args:
        ask: From :func:`picture_query`.
        desk: Takes the picture in, and deletes it.
        shelf: The galleries.
        k: Its value is the number of pictures wanted.
        gallery: Its value is the name of the gallery to search.
        results: Shows what was found.
    """

    def on_picture(file: Any, count: object, name: str) -> tuple:  # noqa: ANN401
        if not file:
            return gr.skip(), gr.skip()

        def shown() -> str:
            picture = desk.take_picture(file)
            return picture_state(shelf.entry(name), picture, picture_count(count))

        return None, answered(shelf, name, shown)

    ask.change(on_picture, [ask, k, gallery], [ask, results], preprocess=False, **SEARCH_EVENT)


def picture_state(entry: ShelvedGallery, picture: Image | None, k: int) -> str:
    """Return the pictures that the CLIP lens finds like a visitor's picture.

    The picture itself is shown from within the page: it is stored nowhere.

    Raises:
        QueryError: There is no picture, or k cannot be answered.
        ModelError: The image tower cannot be loaded.
    """
    if picture is None:
        raise QueryError("Choose a picture to search by.")
    result = entry.service.by_image(picture, k=k)
    shown = base64.b64encode(thumbnail_webp(picture, 160)).decode()
    answer = (
        f'{examples_line(entry)}<div class="tl-anchor"><img src="data:image/webp;base64,{shown}" '
        f'alt="Your picture" width="{picture.width}" height="{picture.height}">'
        "<div><h2>Pictures that look like yours</h2><p>Only the CLIP lens can search by a picture: "
        "the other one reads captions.</p></div></div>"
        f'<section class="tl-lens clip wide">{lens_heading("clip", level=3)}'
        f"{hit_row(entry, result.hits, Standing(), lens='clip')}</section>"
        f"{details([timing(result)])}"
    )
    summary = f"{len(result.hits)} pictures that look like yours."
    return stage(answer, one_lens_skeleton(), summary=summary)
