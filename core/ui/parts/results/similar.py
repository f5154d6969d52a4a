"""Searching onward from a picture: what a tab shows for "similar by ..."."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from core.search.query import MAX_K, picture_count
from core.search.results import SearchResult
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import event_value
from core.ui.parts.markup import LENS_WORDS, escape, stage
from core.ui.parts.results.cards import Standing, alt_text, fill_row, hit_row
from core.ui.parts.results.states import answered, lens_heading, one_lens_skeleton
from core.ui.parts.share import View, addressed


def similar_view(shelf: Shelf, view: View) -> str:
    """Return the results area for "similar by ...", with its address, or why there is none."""

    def found() -> str:
        lens, _, image_id = view.s.partition(":")
        return similar_pictures(shelf, lens, image_id, view.pictures, view.g, view.q)

    return addressed(view, answered(shelf, view.g, found))


def asked_similar(event: gr.EventData) -> str:
    """Return which picture and lens an event of the page asks about, as an address has them."""
    return f"{event_value(event, 'lens', 20)}:{event_value(event, 'id', 40)}"


def similar_answer(shelf: Shelf, event: gr.EventData, k: object, gallery_name: str) -> str:
    """Return :func:`similar_pictures` as asked by an event of the page; raises what that raises."""
    lens, _, image_id = asked_similar(event).partition(":")
    query = event_value(event, "query")
    return similar_pictures(shelf, lens, image_id, k, gallery_name, query)


def similar_pictures(
    shelf: Shelf, lens: str, image_id: str, k: object, gallery_name: str, query: str = ""
) -> str:
    """Return the results area for "similar by ...".

    Args:
        shelf: The galleries.
        lens: By which.
        image_id: The picture.
        k: Pictures wanted.
        gallery_name: Which gallery it is in.
        query: The words whose results are left, or "".

    Raises:
        QueryError: The lens or k is not known.
        UnknownImageError: The gallery has no such picture.
    """
    entry = shelf.entry(gallery_name)
    asked = picture_count(k)
    result = entry.service.similar(
        image_id,
        k=min(2 * asked, MAX_K),
        lens=lens,  # type: ignore[arg-type]  # the service refuses what is not a lens
    )
    result = replace(result, hits=fill_row(entry, result.hits, asked))
    return similar_state(entry, result, image_id, query)


def similar_state(entry: ShelvedGallery, result: SearchResult, image_id: str, query: str) -> str:
    """Return the pictures that a lens finds like one picture, and the way back.

    Args:
        entry: The gallery.
        result: What the lens found.
        image_id: The picture that was asked about.
        query: The words whose results were left, or "".
    """
    record = entry.gallery.record(image_id)
    words = LENS_WORDS[result.lens]
    how = "whose captions say the same" if result.lens == "captions" else "that look the same"
    back = (
        f'<button type="button" class="tl-chip" data-query="{escape(query)}">'
        f"← {escape(query or 'start')}</button>"
    )
    standing = Standing("", {})
    answer = (
        f'<div class="tl-anchor"><img src="{escape(entry.thumbnail_url(record.id))}" '
        f'alt="{escape(alt_text(record))}" width="{record.width}" height="{record.height}">'
        f"<div><h2>Pictures {how}</h2><p>{escape(record.caption)}</p>{back}</div></div>"
        f'<section class="tl-lens {result.lens} wide">{lens_heading(result.lens, level=3)}'
        f"{hit_row(entry, result.hits, standing, lens=result.lens)}</section>"
    )
    first = f"{len(result.hits)} similar pictures by the {words.title}."
    return stage(answer, one_lens_skeleton(), summary=first)
