"""The tab "Break a lens": queries at which lenses fail, and a game of finding more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import SystemRandom

import gradio as gr

from core.gallery.figures.metrics_charts import share
from core.gallery.figures.metrics_file import KindFigures, Metrics, QueryGroup, read_metrics
from core.gallery.figures.written_kinds import TEST_NAMES, KindName
from core.records import LENSES, Lens
from core.search.picture_ranks import place_of
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import PAGE_EVENT, SEARCH_EVENT, event_value, sentence_for
from core.ui.parts.markup import LENS_WORDS, escape
from core.ui.parts.query.search_box import RESULTS_BRIDGE, words_field
from core.ui.parts.results.cards import Standing, card, hit_row, standing_of

_PICTURES = 5
_FOUND = 5
"""A lens finds a picture that is among its first so many."""
_MISSED = 10
"""It misses one that is not among its first so many."""
_FEWEST = 10
"""Measured queries of a kind under which their share is not shown: 3 of 3 says nothing."""
_MOST_OPEN = 2_000


@dataclass(frozen=True, slots=True)
class Limit:
    """A kind of query that lenses read badly.

    Attributes:
        title: What it is about.
        why: Why it is hard, in a sentence.
        pair: Two queries that mean different things.
        kind: What the figures of a gallery call queries that were written about it.
        group: What they call captions by people that speak of it, or "".
    """

    title: str
    why: str
    pair: tuple[str, str]
    kind: KindName
    group: str = ""


LIMITS = (
    Limit(
        "Not and without",
        "Both lenses look for what is named, wanted or not.",
        ("a street with cars", "a street without cars"),
        "negation",
        "a negation",
    ),
    Limit(
        "Counting",
        "Three of a thing look much like one; a caption may say “some”.",
        ("one person", "three people"),
        "count",
        "a count",
    ),
    Limit(
        "Who does what to whom",
        "The same words in another order are nearly the same embedding.",
        ("a dog chasing a man", "a man chasing a dog"),
        "roles",
    ),
    Limit(
        "Colour of which thing",
        "A picture with red and with white in it fits both orders.",
        ("a red car and a white house", "a white car and a red house"),
        "colour",
        "a colour",
    ),
    Limit(
        "Small things",
        "Pictures are made small before a model sees them, and captions name what is large.",
        ("a picture of a clock", "a small clock far away"),
        "small",
    ),
    Limit(
        "Writing in the picture",
        "Neither lens reads; some words have been seen often enough to be known by their look.",
        ("a sign that says stop", "a sign that says exit"),
        "text",
    ),
    Limit(
        "Feelings and ideas",
        "Nobody writes “freedom” under a photo, so no caption says it.",
        ("freedom", "loneliness"),
        "abstract",
    ),
    Limit(
        "Style",
        "How a picture was taken is seldom said: captions say what is in it.",
        ("a photo taken at night", "a photo taken from above"),
        "style",
    ),
    Limit(
        "Rare things",
        "What a model met seldom it calls by the name of something common.",
        ("a dog", "a quokka"),
        "rare",
    ),
)


def limits_tab(shelf: Shelf, gallery: gr.Textbox, tab: gr.Tab) -> None:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery.
        tab: The tab itself.
    """
    challenges = Challenges(shelf)
    view = gr.HTML(
        "",
        elem_classes=["tl-bare", "tl-results"],
        js_on_load=RESULTS_BRIDGE,
        apply_default_css=False,
    )
    gr.HTML(
        '<section class="tl-challenge"><h2>Your turn</h2><p>Describe the picture so that one lens '
        f"finds it among its first {_FOUND} and the other not among its first {_MISSED}.</p>"
        "</section>",
        elem_classes=["tl-bare"],
        apply_default_css=False,
    )
    with gr.Row(elem_classes=["tl-search"], equal_height=True):
        words = words_field(
            "challenge-words", "Your words for the picture", "your words for the picture below"
        )
        again = gr.Button("Another picture", scale=0, min_width=190, elem_id="challenge-another")
        go = gr.Button("Try", variant="primary", scale=0, min_width=90, elem_classes=["tl-go"])
    played = gr.HTML("", elem_classes=["tl-bare", "tl-results"], apply_default_css=False)

    def on_open(name: str, request: gr.Request) -> tuple[str, str]:
        return _said(lambda: tour(shelf, name)), _said(
            lambda: challenges.picture(request.session_hash or "", name)
        )

    def on_pick(name: str, event: gr.EventData) -> str:
        return _said(lambda: tour(shelf, name, event_value(event, "query")))

    def on_another(name: str, request: gr.Request) -> tuple[str, str]:
        session = request.session_hash or ""
        return "", _said(lambda: challenges.picture(session, name, another=True))

    def on_try(text: str, name: str, request: gr.Request) -> str:
        return _said(lambda: challenges.attempt(request.session_hash or "", name, text))

    gr.on([tab.select, gallery.change], on_open, gallery, [view, played], **PAGE_EVENT)
    view.pick(on_pick, gallery, view, **SEARCH_EVENT)
    again.click(on_another, gallery, [words, played], **SEARCH_EVENT)
    gr.on([words.submit, go.click], on_try, [words, gallery], played, **SEARCH_EVENT)


def tour(shelf: Shelf, gallery: str | None, asked: str = "") -> str:
    """Return the kinds of query; under the one that was asked, what both lenses find.

    Raises:
        QueryError: There is no gallery.
    """
    entry = shelf.entry(gallery)
    found = read_metrics(entry.gallery)
    metrics = found if isinstance(found, Metrics) else None
    awaited = shelf.awaited
    soon = awaited is not None and not awaited.trouble and awaited.folder == entry.gallery.folder
    parts = "".join(
        _limit(entry, limit, _measured(limit, metrics, soon=soon), asked) for limit in LIMITS
    )
    counted = ""
    if metrics and metrics.kinds:
        counted = (
            " Under each kind stands how often a lens was right with queries that were written for "
            "the pictures of this gallery."
        )
    return (
        '<section class="tl-limits"><h2>Where they fail</h2><p>Each pair means different things. '
        f"A lens that shows the same pictures for both has not read the difference.{counted}</p>"
        f"{parts}</section>"
    )


def _limit(entry: ShelvedGallery, limit: Limit, measured: str, asked: str) -> str:
    chips = "".join(
        f'<button type="button" class="tl-chip" data-query="{escape(query)}"'
        f"{' aria-pressed=true' if query == asked else ''}>{escape(query)}</button>"
        for query in limit.pair
    )
    answer = _pair(entry, limit, asked) if asked in limit.pair else ""
    return (
        f'<article class="tl-limit"><h3>{limit.title}</h3><p>{limit.why}</p>'
        f'<p class="tl-note">{measured}</p>'
        f'<div class="tl-try"><span>Try</span>{chips}</div>{answer}</article>'
    )


def _measured(limit: Limit, metrics: Metrics | None, *, soon: bool) -> str:
    """Return how often each lens is right on the gallery with queries of a kind, or why not."""
    written = {each.kind: each for each in metrics.kinds} if metrics else {}
    groups = {each.name: each for each in metrics.groups} if metrics else {}
    kind, group = written.get(limit.kind), groups.get(limit.group)
    if kind is not None and kind.queries >= _FEWEST:
        return _written(kind)
    if soon:
        return "Being measured on this gallery at this moment."
    if group is not None and group.queries >= _FEWEST:
        return _spoken_of(limit, group)
    return "Not measured on this gallery: nobody wrote queries of this kind for its pictures."


def _written(kind: KindFigures) -> str:
    lenses = ", ".join(
        f'<strong class="{lens}">{LENS_WORDS[lens].title} '
        f"{share(kind.right[lens] / kind.queries, kind.queries)}</strong>"
        for lens in LENSES
    )
    read = kind.right.get("text")
    if kind.kind == "text" and read is not None:
        lenses += (
            f", the text that was read in the pictures {share(read / kind.queries, kind.queries)}"
        )
    chance = f"{round(2 * kind.chance) / 2:g}"
    return f"{lenses}, chance {chance}: {TEST_NAMES[kind.test]}."


def _spoken_of(limit: Limit, group: QueryGroup) -> str:
    captions, clip = (share(group.r_at_5.get(lens), group.queries) for lens in LENSES)
    return (
        f"Not measured by itself on this gallery. Of {group.queries:,} captions by people with "
        f"{limit.group} in them, the caption lens finds the picture among its first five for "
        f"{captions}, the CLIP lens for {clip}; the other words of a caption help."
    )


def _pair(entry: ShelvedGallery, limit: Limit, asked: str) -> str:
    first, second = (entry.service.compare(query, k=_PICTURES) for query in limit.pair)
    shown = first if asked == limit.pair[0] else second
    standing = standing_of(shown.query, shown.rankings)
    columns = []
    for lens in LENSES:
        results = [getattr(comparison, lens) for comparison in (first, second)]
        result = getattr(shown, lens)
        if None in (*results, result):
            continue
        sets = [{hit.id for hit in each.hits} for each in results]
        same = len(sets[0] & sets[1])
        columns.append(
            f'<section class="tl-lens {lens}" aria-label="{LENS_WORDS[lens].title}"><header '
            f'class="tl-lens-head"><h4>{LENS_WORDS[lens].mark}{LENS_WORDS[lens].title} <small>'
            f"{same} of {len(sets[0])} pictures are the same for both</small></h4></header>"
            f"{hit_row(entry, result.hits, standing, lens=lens)}</section>"
        )
    return f'<div class="tl-lenses" aria-live="polite">{"".join(columns)}</div>'


@dataclass(slots=True)
class _Game:
    gallery: str
    image_id: str
    tries: int = 0
    broken: dict[Lens, int] = field(default_factory=lambda: dict.fromkeys(LENSES, 0))
    done: bool = False


class Challenges:
    """The picture that each visitor is to describe, and how often they broke a lens.

    Args:
        shelf: The galleries.
    """

    def __init__(self, shelf: Shelf) -> None:
        """Begin without visitors."""
        self._shelf = shelf
        self._games: OrderedDict[str, _Game] = OrderedDict()
        self._lock = threading.Lock()
        self._dice = SystemRandom()

    def picture(self, session: str, gallery: str, *, another: bool = False) -> str:
        """Return the picture that a visitor has before them; a new one if asked or if none.

        Raises:
            QueryError: There is no such gallery.
        """
        entry, game = self._game(session, gallery, another)
        return _shown(entry, game, "")

    def attempt(self, session: str, gallery: str, words: str) -> str:
        """Return what a visitor's words do, and the score of the visit.

        Raises:
            QueryError: The words cannot be searched.
            ModelError: An encoder cannot be loaded.
        """
        entry, game = self._game(session, gallery, another=False)
        query = entry.service.normalise(words)
        models = entry.service.models
        ranks = {
            lens: place_of(models, entry.gallery, lens, query, game.image_id).rank
            for lens in LENSES
        }
        verdict = _verdict(ranks)
        with self._lock:
            game.tries += 1
            if verdict is not None and not game.done:
                game.broken[verdict] += 1
                game.done = True
        places = ", ".join(
            f"{LENS_WORDS[lens].title} place {ranks[lens]} of {len(entry.gallery)}"
            for lens in LENSES
        )
        if verdict is not None:
            said = f"You broke the {LENS_WORDS[verdict].title}: it misses what the other finds."
        elif all(rank <= _FOUND for rank in ranks.values()):
            said = "Both find it. Say less, or say it strangely."
        elif all(rank > _FOUND for rank in ranks.values()):
            said = "Neither finds it. Say more of what is there."
        else:
            said = f"Close: the other lens must not have it among its first {_MISSED}."
        return _shown(entry, game, f"<strong>{said}</strong> “{escape(query)}”: {places}.")

    def _game(self, session: str, gallery: str, another: bool) -> tuple[ShelvedGallery, _Game]:
        entry = self._shelf.entry(gallery)
        with self._lock:
            game = self._games.get(session)
            if game is None:
                game = self._games[session] = _Game(entry.name, "")
            if another or game.gallery != entry.name or game.image_id not in entry.gallery:
                records = entry.gallery.records
                game.gallery, game.done = entry.name, False
                game.image_id = self._dice.choice(records).id
            self._games.move_to_end(session)
            while len(self._games) > _MOST_OPEN:
                self._games.popitem(last=False)
        return entry, game


def _verdict(ranks: dict[Lens, int]) -> Lens | None:
    """Return the lens that misses what the other one finds, if one does."""
    for lens, other in (LENSES, LENSES[::-1]):
        if ranks[lens] > _MISSED and ranks[other] <= _FOUND:
            return lens
    return None


def _shown(entry: ShelvedGallery, game: _Game, said: str) -> str:
    broken = ", ".join(
        f"{LENS_WORDS[lens].title} {game.broken[lens]}" for lens in LENSES if game.broken[lens]
    )
    score = f"Broken so far: {broken}, in {game.tries} tries." if broken else ""
    return (
        f'<div class="tl-challenged"><ol class="tl-row">'
        f"{card(entry, game.image_id, Standing())}</ol>"
        f'<p role="status">{said} {score}</p></div>'
    )


def _said(render: Callable[[], str]) -> str:
    try:
        return render()
    except Exception as error:
        said = escape(sentence_for(error, "limits"))
        return f'<div class="tl-notice" role="alert"><p>{said}</p></div>'
