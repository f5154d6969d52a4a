"""The whole page: header, gallery selector, one tab after the other, endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import gradio as gr

from core.duel.votes import Votes
from core.models.profiles import Profile
from core.records import LENSES
from core.ui.api import add_endpoints
from core.ui.first_gallery import is_awaited, turn_into_first_gallery
from core.ui.galleries.chooser import GalleryChooser
from core.ui.galleries.shelf import Shelf
from core.ui.parts.events import SEARCH_EVENT, PageBlocks
from core.ui.parts.markup import escape
from core.ui.parts.results.states import answered, opening_state, start_state
from core.ui.parts.share import SHARE_BRIDGE, SHARE_BUTTON
from core.ui.restored_view import restored_parts, restoring
from core.ui.tabs.about import about_tab, gallery_description
from core.ui.tabs.break_a_lens import limits_tab
from core.ui.tabs.compare import compare_tab, search
from core.ui.tabs.duel import duel_tab
from core.ui.tabs.evaluation import evaluation_tab
from core.ui.tabs.lens import lens_tab, offered_options
from core.ui.tabs.lens import search as lens_search
from core.ui.tabs.map import map_tab
from core.ui.tabs.map import search as map_search
from core.ui.tabs.map import start as map_start
from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.endpoints import add_upload_endpoints
from core.ui.uploads.tab import upload_tab
from core.ui.why import add_why_endpoint

TITLE = "TwoLens"
"""Of the page, and the name of its MCP server."""
_STATIC = Path(__file__).parent / "static"
_STYLES = (
    "page.css",
    "results.css",
    "viewer.css",
    "share.css",
    "why.css",
    "upload.css",
    "evaluation.css",
    "duel.css",
    "query.css",
    "galleries.css",
    "phone.css",
)
_SCRIPTS = (
    "base.js",
    "why.js",
    "viewer.js",
    "share.js",
    "asking.js",
    "query.js",
    "galleries.js",
    "page.js",
    "upload.js",
)
_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Liberation Sans", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
_TIDY_UP = (60, 600)
"""Seconds between two looks into gradio's cache, and the age at which a file there is deleted."""

_LOGO = (
    '<svg class="tl-logo" viewBox="0 0 44 28" width="44" height="28" aria-hidden="true" '
    'focusable="false"><circle class="a" cx="15" cy="14" r="12"/><circle class="b" cx="29" cy="14" '
    'r="12"/><path class="c" d="M22 4.25a12 12 0 0 1 0 19.5a12 12 0 0 1 0-19.5z"/></svg>'
)

_ICON = (
    '<link rel="icon" type="image/svg+xml" href="data:image/svg+xml,'
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Ccircle cx='12' cy='16' r='10' fill='%23a53f14'/%3E"
    "%3Ccircle cx='20' cy='16' r='10' fill='%230f5c8f' fill-opacity='.8'/%3E%3C/svg%3E\">"
)


def theme() -> gr.themes.Base:
    """Return gradio's base theme with system fonts only, so that nothing is fetched."""
    return gr.themes.Base(
        primary_hue="stone", neutral_hue="stone", font=list(_SANS), font_mono=list(_MONO)
    )


@cache
def head() -> str:
    """Return the page's own style and script as elements of the document's head."""
    style = "".join((_STATIC / name).read_text(encoding="utf-8") for name in _STYLES)
    script = "".join((_STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return f"{_ICON}<style>{style}</style><script>{script}</script>"


def build_page(
    shelf: Shelf, desk: UploadDesk | None = None, votes: Votes | None = None
) -> gr.Blocks:
    """Build the page and its endpoints over the galleries of a shelf.

    Nothing is loaded and no query is run; a model loads with the first search that needs it.

    Args:
        shelf: The galleries.
        desk: Serves visitors' own photos; None leaves out their tab.
        votes: Keeps the votes of blind duels; None leaves out their tab.
    """
    with PageBlocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=_TIDY_UP
    ) as page:
        with gr.Row(elem_classes=["tl-top"], equal_height=True):
            brand = gr.HTML(
                _header(shelf.profile),
                js_on_load=SHARE_BRIDGE,
                apply_default_css=False,
                elem_classes=["tl-bare", "tl-brand"],
            )
            chooser = GalleryChooser(shelf)
            gallery = chooser.name
        with gr.Tabs(elem_classes=["tl-tabs"], overflow_behavior="wrap") as tabs:
            with gr.Tab("Compare", id="compare"):
                compare = compare_tab(shelf, gallery)
            if desk is not None:
                with gr.Tab("Your photos", id="upload"):
                    upload_tab(page, desk)
            lens_tabs = []
            for lens, title in zip(LENSES, ("Captions", "CLIP"), strict=True):
                with gr.Tab(title, id=lens):
                    lens_tabs.append(lens_tab(shelf, gallery, lens, desk))
            with gr.Tab("Map", id="map"):
                maps = map_tab(shelf, gallery)
            if votes is not None:
                with gr.Tab("Blind duel", id="duel") as tab:
                    duel_tab(shelf, gallery, votes, tab)
            with gr.Tab("Break a lens", id="limits") as tab:
                limits_tab(shelf, gallery, tab)
            with gr.Tab("Which is better?", id="evaluation") as tab:
                evaluation_tab(shelf, gallery, tab)
            with gr.Tab("About", id="about"):
                described = about_tab(shelf)

        boxes = [compare.box, *(tab.box for tab in lens_tabs), maps.box]

        def on_gallery(name: str, tab: str, *asked: object) -> list[object]:
            return [*_answers(shelf, name, tab, asked), *of_gallery(name)]

        def of_gallery(name: str | None) -> list[object]:
            return [*offered_options(shelf, name), gallery_description(shelf, name)]

        all_results = [compare.results, *(tab.results for tab in lens_tabs)]
        parts = [part for tab in lens_tabs for part in (tab.options, tab.index, tab.nprobe)]
        chooser.connect(
            on_gallery,
            [*(part for box in boxes for part in (box.query, box.k)), compare.more],
            [*all_results, maps.results, maps.chosen, *parts, described],
        )

        restorable = [gallery, tabs, *restored_parts(compare, lens_tabs, maps), *parts, described]
        restorable.append(compare.more)
        brand.restore(restoring(shelf, of_gallery), None, restorable, **SEARCH_EVENT)

        others = [tab.results for tab in lens_tabs]
        waiting = turn_into_first_gallery(shelf, compare, others, [*parts, described], of_gallery)

        def redraw() -> None:
            """Begin each page that is opened from now on with what is served now."""
            for results in all_results:
                results.value = start_state(shelf, None)
            compare.results.value = opening_state(shelf)
            chooser.redraw()
            waiting.active = is_awaited(shelf)
            described.value = gallery_description(shelf, None)
            page.config = page.get_config_file()

        shelf.when_replaced = redraw
        add_endpoints(shelf)
        add_why_endpoint(shelf)
        if desk is not None:
            add_upload_endpoints(desk)
    return page


def _answers(shelf: Shelf, gallery: str, tab: str, asked: Sequence[object]) -> list[str]:
    """Return each tab's results for another gallery: those of its words where it is in sight.

    A tab out of sight starts anew, and the page's script asks its words when it is opened. Last
    comes what was chosen in the map. The last of what was asked is what Compare shows beside both
    lenses.
    """
    tabs = ("compare", *LENSES, "map")
    start = answered(shelf, gallery, lambda: start_state(shelf, gallery))
    shown = [*[start] * (1 + len(LENSES)), map_start(), ""]
    if tab in tabs:
        place = tabs.index(tab)
        query, count = str(asked[2 * place] or ""), asked[2 * place + 1]
        if tab == "map":
            shown[place] = map_search(shelf, query, count, gallery)
        elif tab == "compare":
            shown[place] = search(shelf, query, count, gallery, more=str(asked[-1] or ""))
        else:
            shown[place] = lens_search(shelf, LENSES[place - 1], query, count, gallery)
    return shown


def _header(profile: Profile) -> str:
    answering = (
        "<strong>small models</strong><span> answer</span>"
        if profile.name == "mini"
        else f"<strong>{escape(profile.name)} models</strong><span> answer</span>"
    )
    return (
        f'<div class="tl-header"><h1>{_LOGO}TwoLens</h1>'
        "<p>Two ways to find a picture by words, side by side.</p>"
        f'<button type="button" class="tl-pill" data-tab="About">{answering}</button>'
        f"{SHARE_BUTTON}</div>"
    )
