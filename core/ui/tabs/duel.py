"""The tab "Blind duel": two unlabelled rows, a vote, then who they were and how each one stands."""

from __future__ import annotations

import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from random import SystemRandom

import gradio as gr

from core.duel.bradley_terry import Strength, by_kind, strengths
from core.duel.votes import CONTENDERS, Choice, Contender, Vote, Votes
from core.errors import QueryError, VoteError
from core.records import FusedHit, Hit
from core.search.results import Comparison
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import PAGE_EVENT, SEARCH_EVENT, sentence_for
from core.ui.parts.markup import BOTH_MARK, LENS_WORDS, escape
from core.ui.parts.query.search_box import RESULTS_BRIDGE, words_field
from core.ui.parts.results.cards import Standing, alt_text, card, standing_of
from core.ui.parts.results.states import examples_of

_PICTURES = 5
_UNLESS_TYPED = """(typed, drawn) =>
    typed || document.activeElement.closest("#duel-query") ? typed : drawn
"""
_LEAST_VOTES = 20
_MOST_OPEN = 2_000
_CHOICES: tuple[tuple[Choice, str], ...] = (
    ("first", "A is better"),
    ("second", "B is better"),
    ("both", "Both are good"),
    ("neither", "Neither is"),
)
_KIND_WORDS: dict[str, str] = {
    "negation": "with “not” or “without”",
    "text": "about writing in the picture",
    "count": "with a number",
    "colour": "with a colour",
    "action": "with an action",
    "place": "with a place",
    "other": "of other kinds",
}


@dataclass(frozen=True, slots=True)
class Duel:
    """Two rows that wait for a vote.

    Attributes:
        gallery: Name of the gallery.
        comparison: What was found.
        sides: Whose rows stand first and second.
    """

    gallery: str
    comparison: Comparison
    sides: tuple[Contender, Contender]


@dataclass(slots=True)
class _Visit:
    duel: Duel | None = None
    won: Counter[Contender] = field(default_factory=Counter)
    votes: int = 0


class Duels:
    """What each visitor has before them: a page cannot say whose rows it shows.

    Args:
        shelf: The galleries.
        votes: Where votes are kept.
    """

    def __init__(self, shelf: Shelf, votes: Votes) -> None:
        """Begin without visitors."""
        self.shelf = shelf
        self.votes = votes
        self._visits: OrderedDict[str, _Visit] = OrderedDict()
        self._lock = threading.Lock()
        self._dice = SystemRandom()

    def draw(self, gallery: str) -> str:
        """Return a query for a gallery: what somebody wrote of one of its pictures, or an example.

        Raises:
            QueryError: There is no such gallery.
        """
        entry = self.shelf.entry(gallery)
        record = self._dice.choice(entry.gallery.records)
        return self._dice.choice(record.references or examples_of(entry)).rstrip(" .")

    def begin(self, session: str, query: str, gallery: str) -> Duel:
        """Ask both lenses and draw two different rows, in random order.

        Raises:
            QueryError: The query cannot be answered, or all rows are the same.
        """
        entry = self.shelf.entry(gallery)
        comparison = entry.service.compare(query, k=_PICTURES)
        rows = {who: [hit.id for hit in row_of(comparison, who)] for who in CONTENDERS}
        pairs = [
            pair
            for pair in combinations(CONTENDERS, 2)
            if all(map(rows.get, pair)) and rows[pair[0]] != rows[pair[1]]
        ]
        if not pairs:
            raise QueryError(
                "Both lenses find the same pictures in the same order, so there is nothing to "
                "choose. Try other words."
            )
        sides = list(self._dice.choice(pairs))
        self._dice.shuffle(sides)
        duel = Duel(entry.name, comparison, (sides[0], sides[1]))
        with self._lock:
            visit = self._visits.setdefault(session, _Visit())
            visit.duel = duel
            self._visits.move_to_end(session)
            while len(self._visits) > _MOST_OPEN:
                self._visits.popitem(last=False)
        return duel

    def vote(self, session: str, choice: Choice) -> tuple[Duel, bool, _Visit]:
        """Store a vote on the duel that the visitor has before them.

        Returns:
            The duel, whether the vote counts, and the visit so far.

        Raises:
            VoteError: There is no such duel, or the vote cannot be stored.
        """
        with self._lock:
            visit = self._visits.get(session)
            duel = visit.duel if visit else None
            if visit is None or duel is None:
                raise VoteError("This duel is over. Begin another one.")
            visit.duel = None
        vote = Vote(duel.gallery, duel.comparison.query, *duel.sides, choice)
        try:
            counts = self.votes.add(vote, session)
        except VoteError:
            with self._lock:
                visit.duel = visit.duel or duel
            raise
        with self._lock:
            visit.votes += 1
            if choice in ("first", "second"):
                visit.won[duel.sides[choice == "second"]] += 1
        return duel, counts, visit


def row_of(comparison: Comparison, contender: Contender) -> Sequence[Hit | FusedHit]:
    """Return what a contender found."""
    if contender == "fused":
        return comparison.fused
    found = comparison.captions if contender == "captions" else comparison.clip
    return found.hits if found else ()


def duel_tab(shelf: Shelf, gallery: gr.Component, votes: Votes, tab: gr.Tab) -> None:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery to search.
        votes: Where votes are kept.
        tab: The tab itself.
    """
    duels = Duels(shelf, votes)
    with gr.Row(elem_classes=["tl-search"], equal_height=True):
        query = words_field("duel-query", "What to look for", "your words, or draw some")
        draw = gr.Button("Draw one", scale=0, min_width=140, elem_id="duel-draw")
        go = gr.Button("Begin", variant="primary", scale=0, min_width=112, elem_classes=["tl-go"])
    view = gr.HTML(
        _start(duels),
        elem_classes=["tl-bare", "tl-results"],
        js_on_load=RESULTS_BRIDGE,
        apply_default_css=False,
    )
    with gr.Row(visible=False, elem_classes=["tl-duel-choices"]) as choices:
        buttons = [(choice, gr.Button(words, min_width=120)) for choice, words in _CHOICES]

    def shown(session: str | None, text: str, name: str) -> tuple[str, object]:
        try:
            duel = duels.begin(session or secrets.token_hex(8), text, name)
            return _blind(shelf.entry(duel.gallery), duel), gr.Row(visible=True)
        except Exception as error:
            return _notice(sentence_for(error, "duel")), gr.Row(visible=False)

    def on_begin(text: str, name: str, request: gr.Request) -> tuple[str, object]:
        return shown(request.session_hash, text, name)

    def on_draw(name: str, request: gr.Request) -> tuple[object, ...]:
        try:
            text = duels.draw(name)
        except Exception as error:
            return "", _notice(sentence_for(error, "duel")), gr.Row(visible=False)
        return text, *shown(request.session_hash, text, name)

    def voting(choice: Choice) -> object:
        def on_vote(request: gr.Request) -> tuple[str, object]:
            try:
                duel, counts, visit = duels.vote(request.session_hash or "", choice)
                entry = shelf.entry(duel.gallery)
                return _reveal(entry, duel, choice, counts, visit, duels), gr.Row(visible=False)
            except Exception as error:
                return _notice(sentence_for(error, "duel")), gr.Row(visible=False)

        return on_vote

    ready = gr.Textbox(visible="hidden")
    drawn = tab.select(partial(_ready, duels), [query, gallery], ready, **PAGE_EVENT)
    # In the browser, which alone knows what was typed meanwhile, or is about to be.
    drawn.then(None, [query, ready], query, js=_UNLESS_TYPED, api_visibility="private")
    gr.on([query.submit, go.click], on_begin, [query, gallery], [view, choices], **SEARCH_EVENT)
    draw.click(on_draw, gallery, [query, view, choices], **SEARCH_EVENT)
    for choice, button in buttons:
        button.click(voting(choice), None, [view, choices], **SEARCH_EVENT)


def contender_name(contender: Contender) -> str:
    """Return what the page calls a contender."""
    return "Best of both" if contender == "fused" else LENS_WORDS[contender].title


def _notice(sentence: str) -> str:
    return f'<div class="tl-notice" role="alert"><p>{escape(sentence)}</p></div>'


def _ready(duels: Duels, text: str, gallery: str) -> str:
    """Return words for a field that is empty, so that a duel is one press away."""
    return "" if text or not duels.shelf.entries else duels.draw(gallery)


def _start(duels: Duels) -> str:
    return (
        '<section class="tl-duel-start"><h2>Which row answers better?</h2><ol>'
        "<li>Words stand ready above; type your own, or draw others. Then press Begin.</li>"
        "<li>Two rows of pictures come, and not who found them: the caption lens, the CLIP lens, "
        "or both joined.</li><li>You say which fits the words better. Then you see who they were, "
        "and how each stands by all votes.</li></ol>"
        f"<p>Nothing but the query and the vote is kept.</p></section>{_score(duels)}"
    )


def _blind(entry: ShelvedGallery, duel: Duel) -> str:
    rows = []
    for letter, who in zip("AB", duel.sides, strict=True):
        pictures = "".join(
            f'<li class="tl-item"><span class="tl-frame"><img src='
            f'"{escape(entry.thumbnail_url(hit.id))}" alt="{escape(alt_text(record))}" '
            f'width="{record.width}" height="{record.height}" decoding="async"></span></li>'
            for hit in row_of(duel.comparison, who)
            for record in (entry.gallery.record(hit.id),)
        )
        rows.append(
            f'<section class="tl-lens plain wide" aria-label="Row {letter}"><header '
            f'class="tl-lens-head"><h2>{letter}</h2></header><ol class="tl-row">{pictures}</ol>'
            "</section>"
        )
    asked = escape(duel.comparison.query)
    return f'<p class="tl-duel-query">Which row fits “{asked}” better?</p>{"".join(rows)}'


def _reveal(
    entry: ShelvedGallery, duel: Duel, choice: Choice, counts: bool, visit: _Visit, duels: Duels
) -> str:
    standing = standing_of(duel.comparison.query, duel.comparison.rankings)
    rows = "".join(
        _revealed(entry, duel, letter, who, standing)
        for letter, who in zip("AB", duel.sides, strict=True)
    )
    chosen = {
        "first": f"You chose A: <strong>{contender_name(duel.sides[0])}</strong>.",
        "second": f"You chose B: <strong>{contender_name(duel.sides[1])}</strong>.",
        "both": "You found both good.",
        "neither": "You found neither good.",
    }[choice]
    again = "" if counts else " You had voted on these rows before; the first vote counts."
    own = ", ".join(
        f"{contender_name(who)} {visit.won[who]}" for who in CONTENDERS if visit.won[who]
    )
    so_far = f" Your {visit.votes} votes so far: {own}." if visit.votes > 1 and own else ""
    return (
        f'<p class="tl-duel-query" role="status">{chosen}{again}{so_far}</p>{rows}{_score(duels)}'
    )


def _revealed(
    entry: ShelvedGallery, duel: Duel, letter: str, who: Contender, standing: Standing
) -> str:
    mark = BOTH_MARK if who == "fused" else LENS_WORDS[who].mark
    items = "".join(
        card(
            entry,
            hit.id,
            standing,
            caption=who != "clip",
            nearest=standing.nearest_caption(hit.id),
        )
        for hit in row_of(duel.comparison, who)
    )
    kind = "plain" if who == "fused" else who
    return (
        f'<section class="tl-lens {kind} wide"><header class="tl-lens-head"><h2>{mark}{letter} was '
        f'{contender_name(who)}</h2></header><ol class="tl-row">{items}</ol></section>'
    )


def _score(duels: Duels) -> str:
    counts = duels.votes.counts()
    best, votes = strengths(counts)
    if not votes:
        return '<p class="tl-note">Nobody has voted yet. Yours would be the first.</p>'
    if votes < _LEAST_VOTES:
        heading = f"{votes} vote{'' if votes == 1 else 's'} so far: too few to say much"
    else:
        heading = f"After {votes:,} votes"
    tables = [_table(heading, best)]
    for kind, (ranked, number) in by_kind(counts, _LEAST_VOTES).items():
        tables.append(_table(f"Queries {_KIND_WORDS[kind]} ({number:,} votes)", ranked))
    return (
        f'<section class="tl-duel-score">{"".join(tables)}<p class="tl-note">Duels won of 100, a '
        "draw being half a win, by a Bradley-Terry model; in brackets where the true share lies, "
        "by these votes, with a probability of 95 %.</p></section>"
    )


def _table(heading: str, ranked: Sequence[Strength]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{contender_name(each.contender)}</th><td>{100 * each.wins:.0f}</td>"
        f"<td>({100 * each.low:.0f} to {100 * each.high:.0f})</td></tr>"
        for each in ranked
    )
    return f"<table><caption>{escape(heading)}</caption><tbody>{rows}</tbody></table>"
