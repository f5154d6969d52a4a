"""What the results area shows when there are no results to show, and what stands above results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.errors import TwoLensError
from core.records import SAMPLE_NAME, Lens
from core.search.query_language.foreign import reading_note
from core.search.results import SearchResult
from core.ui.galleries.shelf import AwaitedGallery, Shelf, ShelvedGallery
from core.ui.parts.events import sentence_for
from core.ui.parts.markup import LENS_WORDS, escape, milliseconds, ordinal, stage
from core.ui.parts.results.cards import alt_text, plain_row, skeleton_row
from core.ui.parts.results.measured import case_chips
from core.ui.parts.thumbnails import awaited_address

EXAMPLES = (
    "two children on a beach",
    "a red bus",
    "someone climbing",
    "an animal looking at me",
    "something sad",
)
SAMPLE_EXAMPLES = (
    "something that flies",
    "a place to sit",
    "people having a party",
    "a wild cat",
    "a view over the water",
)
"""The first is answered when the page opens."""
PICTURES_BEFORE_SEARCH = 10


def examples_of(entry: ShelvedGallery) -> tuple[str, ...]:
    """Return queries that fit a gallery."""
    return SAMPLE_EXAMPLES if entry.source_id == SAMPLE_NAME else EXAMPLES


def examples_line(entry: ShelvedGallery, current: str = "") -> str:
    """Return the examples, and what only one lens solves, as buttons; what was asked is marked."""
    first, *others = [
        f'<button type="button" class="tl-chip" data-query="{escape(example)}"'
        f"{' aria-pressed=true' if example == current else ''}>{escape(example)}</button>"
        for example in examples_of(entry)
    ]
    chips = f"{first}{case_chips(entry, current)}{''.join(others)}"
    return f'<div class="tl-try"><span>Try</span>{chips}</div>'


def lens_heading(lens: Lens, *, level: int = 2, note: str = "") -> str:
    """Return a lens's mark, name and what it does, and beside these a note, HTML."""
    words = LENS_WORDS[lens]
    return (
        f'<header class="tl-lens-head"><h{level} title="{escape(words.how)}">{words.mark}'
        f"{words.title} <small>{words.verb}</small></h{level}>{note}</header>"
    )


def details(facts: Sequence[tuple[str, str, str]]) -> str:
    """Return figures that few visitors ask for, folded away.

    Args:
        facts: For each a name, a value and what it means; plain text.
    """
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd><b>{escape(value)}</b> {escape(note)}</dd>"
        for name, value, note in facts
    )
    return f'<details class="tl-details"><summary>Details</summary><dl>{rows}</dl></details>'


def timing(result: SearchResult) -> tuple[str, str, str]:
    """Return how long a lens took, as a fact for :func:`details`."""
    if result.cached:
        took = milliseconds(result.search_ms)
        return LENS_WORDS[result.lens].title, took, "to search; the query was known already."
    took = milliseconds(result.encode_ms + result.search_ms)
    search = milliseconds(result.search_ms)
    return LENS_WORDS[result.lens].title, took, f"to read the query and search; {search} to search."


def answered(shelf: Shelf, gallery: str | None, render: Callable[[], str]) -> str:
    """Return what ``render`` returns, or a state that says why it could not be answered."""
    try:
        return render()
    except Exception as error:
        return error_state(shelf, gallery, sentence_for(error, "the page"))


def start_state(shelf: Shelf, gallery: str | None) -> str:
    """Return what stands before the first search: examples and pictures of the gallery."""
    if not shelf.entries:
        return building_state(shelf.awaited) if shelf.awaited else no_gallery_state()
    entry = shelf.entry(gallery)
    answer = f"{examples_line(entry)}{_some_pictures(entry)}"
    return stage(answer, two_lens_skeleton())


def opening_state(shelf: Shelf) -> str:
    """Return what the page begins with; an example's query, which its script asks at once."""
    if not shelf.entries or shelf.entry().source_id != SAMPLE_NAME:
        return start_state(shelf, None)
    examples = examples_line(shelf.entry())
    answer = f'{examples}<div data-open="{escape(SAMPLE_EXAMPLES[0])}">{two_lens_skeleton()}</div>'
    return stage(answer, two_lens_skeleton())


def building_state(awaited: AwaitedGallery) -> str:
    """Return what stands where the first gallery is being built, or why it could not be."""
    if awaited.trouble:
        return no_gallery_state(awaited.trouble)
    count = f"{awaited.done} of {awaited.total}"
    lenses = "".join(
        f'<div class="tl-how {lens}"><h3>{words.mark}{words.title} <small>{words.verb}</small></h3>'
        f"<p>{words.how}</p></div>"
        for lens, words in LENS_WORDS.items()
    )
    photos = (
        f'<figure class="{"" if caption else "is-waiting"}">'
        f'<img src="{awaited_address(image_id)}" alt="" width="160" height="160">'
        f"<figcaption>{escape(caption) or '…'}</figcaption></figure>"
        for image_id, caption in awaited.shown.items()
    )
    answer = (
        f'<section class="tl-notice tl-building"><h2>Building the first gallery: {count}</h2>'
        f'<progress max="{awaited.total}" value="{awaited.done}">{count}</progress>'
        "<p>A model is looking at photos that came with the installation and writes a caption for "
        "each, once. This page turns into the gallery by itself; you can type already what you "
        f'will look for.</p></section><div class="tl-hows">{lenses}</div>'
        f'<div class="tl-watched">{"".join(photos)}</div>'
    )
    # No name of its own for each answer: what was shown before stays, and its pictures with it.
    return f'<div class="tl-stage"><div class="tl-answer" tabindex="-1">{answer}</div></div>'


def error_state(shelf: Shelf, gallery: str | None, sentence: str) -> str:
    """Return what stands where a search could not be answered: why, and where to start again."""
    notice = f'<div class="tl-notice" role="alert"><p>{escape(sentence)}</p></div>'
    try:
        entry = shelf.entry(gallery)
    except TwoLensError:
        return stage(notice, "", summary=sentence)
    answer = f"{examples_line(entry)}{notice}{_some_pictures(entry)}"
    return stage(answer, two_lens_skeleton(), summary=sentence)


def no_gallery_state(why: str = "") -> str:
    """Return what stands where no gallery is loaded: why, if that is known, and what to run."""
    reason = f"<p><strong>{escape(why)}</strong></p>" if why else ""
    answer = (
        f'<section class="tl-notice"><h2>No gallery is loaded</h2>{reason}'
        "<p>A gallery is a folder of pictures with their captions and indexes. Build one, then "
        "start the app on it:</p><pre>python -m precompute build PHOTOS --out galleries/mine\n"
        "python app.py --gallery galleries/mine</pre></section>"
    )
    return stage(answer, "", summary="No gallery is loaded.")


def lens_failure(lens: Lens, sentence: str) -> str:
    """Return what stands in a lens's place when only the other one could answer."""
    return (
        f'{lens_heading(lens)}<div class="tl-notice"><p><strong>This lens could not answer.'
        f"</strong> {escape(sentence)}</p></div>"
    )


def toolbar(*parts: str) -> str:
    """Return the row below results: what is given, and what saves them or copies their addresses.

    Args:
        parts: Pages, and rows that may be added; HTML, each may be "".
    """
    return (
        f'<div class="tl-toolbar">{"".join(parts)}<p class="tl-take">'
        '<button type="button" class="tl-chip" data-export="csv">Save as CSV</button>'
        '<button type="button" class="tl-chip" data-export="links">Copy links</button></p></div>'
    )


def fewer_note(shown: int, asked: int, left: int | None = None) -> str:
    """Return a note if fewer pictures are shown than were asked for, or "".

    Args:
        shown: How many are.
        asked: How many were asked for.
        left: How many the query's filters leave; None without filters.
    """
    if shown >= asked:
        return ""
    pictures = "one picture" if shown == 1 else f"{shown} pictures"
    if left is None:
        said = f"This is all there is: the gallery holds {pictures} to rank."
    else:
        said = f"The filters leave {pictures}."
    return f'<p class="tl-note">{said}</p>'


def match_note(entry: ShelvedGallery, result: SearchResult, words: str) -> str:
    """Return a sentence for above a lens's results if not even its best hit is a match, or "".

    Args:
        entry: The gallery.
        result: What the lens found.
        words: That were asked; of words that no model reads the page says more than this.
    """
    if entry.matches_well(result) is not False or reading_note(words):
        return ""
    return '<p class="tl-no-match"><strong>Nothing here matches well.</strong></p>'


def two_lens_skeleton() -> str:
    """Return placeholders in the shape of a comparison."""
    lens = f'<section class="tl-lens plain"><header class="tl-lens-head"></header>{skeleton_row()}'
    return f'<div class="tl-lenses">{lens}</section>{lens}</section></div>'


def one_lens_skeleton() -> str:
    """Return placeholders in the shape of one lens's results."""
    return (
        '<section class="tl-lens plain wide"><header class="tl-lens-head"></header>'
        f"{skeleton_row()}</section>"
    )


def top_pictures(entry: ShelvedGallery, image_ids: Sequence[str], what: str) -> str:
    """Return a sentence for screen readers that names the first picture of a result."""
    if not image_ids:
        return f"{what} found nothing."
    first = alt_text(entry.gallery.record(image_ids[0]))
    return f"{what}: {len(image_ids)} pictures, the {ordinal(1)} is {first}."


def _some_pictures(entry: ShelvedGallery) -> str:
    ids = entry.gallery.ids
    step = max(1, len(ids) // PICTURES_BEFORE_SEARCH)
    shown = ids[::step][:PICTURES_BEFORE_SEARCH]
    count = f"{len(ids):,} picture{'' if len(ids) == 1 else 's'}"
    browse = ""
    if len(shown) < len(ids):
        browse = (
            '<button type="button" class="tl-chip" data-start="0" data-words="">'
            f"Browse all {len(ids):,}</button>"
        )
    return (
        f'<section class="tl-lens plain"><header class="tl-lens-head"><h2>{escape(entry.name)} '
        f"<small>{count}</small></h2>{browse}</header>{plain_row(entry, shown)}</section>"
    )
