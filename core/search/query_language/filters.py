"""What a query demands of a picture before it is ranked: ``shape:portrait``, ``caption:dog`` ...

A filter is a word of the query, so that it is in its address, its history and the API as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from core.errors import QueryError
from core.records import UNSURE, values_of
from core.text import one_line

if TYPE_CHECKING:
    from core.records import ImageRecord

T = TypeVar("T")

SHAPES = ("landscape", "portrait", "square")
SQUARE = 0.05
"""How much longer than the other the longer side of a square picture may be, as a share of it."""

_MOST_CHARS = 500
_MOST_MEGAPIXELS = 1000.0
_FILTER = re.compile(
    r"""
    (?<!\S)(?P<minus>[-−])?
    (?P<key>licen[cs]e|shape|megapixels|sure|caption):
    (?:"(?P<phrase>[^"]*[^\W_][^"]*)"|(?P<word>[^\s":]*[^\W_][^\s":]*))
    (?=$|\s)
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Filter:
    """One demand.

    Attributes:
        key: ``licence``, ``shape``, ``megapixels``, ``sure`` or ``caption``.
        value: Checked, in lower case.
        negated: Whether the pictures that meet it are left out.
        span: Where it stands in the query.
    """

    key: str
    value: str
    negated: bool = False
    span: tuple[int, int] = (0, 0)

    @property
    def label(self) -> str:
        """How it is shown, in words."""
        words = {
            "licence": f"licence {self.value}",
            "shape": self.value,
            "megapixels": f"{self.value} megapixels or more",
            "sure": "sure captions" if self.value == "yes" else "unsure captions",
            "caption": f"“{self.value}” in the caption",
        }[self.key]
        return f"not {words}" if self.negated else words


class Columns(Protocol):
    """What filters need of a gallery."""

    @property
    def records(self) -> Sequence[ImageRecord]:
        """The pictures, in row order."""
        ...

    def column(self, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` returns, which is made once."""
        ...


def find_filters(text: str) -> tuple[Filter, ...]:
    """Return the filters that stand in a query, in order.

    Raises:
        QueryError: A value is not one that its filter takes.
    """
    if ":" not in text:
        return ()
    return tuple(
        Filter(
            found["key"].replace("license", "licence"),
            _value(found["key"], (found["phrase"] or found["word"]).strip().lower()),
            bool(found["minus"]),
            found.span(),
        )
        for found in _FILTER.finditer(text)
    )


def with_filters(query: str, filters: str) -> str:
    """Return a query with filters behind it.

    Args:
        query: As it was sent.
        filters: As they stand in a query; "" for none.

    Raises:
        QueryError: There is something else among them.
    """
    if not filters:
        return query
    if not isinstance(filters, str) or len(filters) > _MOST_CHARS:
        raise QueryError(f"The filters must be a text of at most {_MOST_CHARS} characters.")
    text = one_line(filters)
    for each in reversed(find_filters(text)):
        text = text[: each.span[0]] + text[each.span[1] :]
    if text.strip():
        raise QueryError(f"{text.strip()[:40]!r} is no filter, as shape:portrait is.")
    return f"{query} {filters}"


def allowed_rows(pictures: Columns, filters: Sequence[Filter]) -> np.ndarray | None:
    """Return which pictures meet all filters: bool (n,), in row order; None without filters."""
    allowed = None
    for each in filters:
        met = _MET[each.key](pictures, each.value)
        met = ~met if each.negated else met
        allowed = met if allowed is None else allowed & met
    return allowed


def prepare_filters(pictures: Columns) -> None:
    """Make what filters read of all pictures, but their captions' words, before one is asked."""
    sides(pictures)
    licences(pictures)
    sure_captions(pictures)


def _value(key: str, value: str) -> str:
    if key == "shape" and value not in SHAPES:
        raise QueryError(f"shape: is one of {', '.join(SHAPES)}; got {value[:40]!r}.")
    if key == "sure" and value not in ("yes", "no"):
        raise QueryError(f"sure: is yes or no; got {value[:40]!r}.")
    if key == "megapixels":
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 < number <= _MOST_MEGAPIXELS:
            raise QueryError(f"megapixels: is a number above 0, as 0.5; got {value[:40]!r}.")
        return f"{number:g}"
    return value


def sides(pictures: Columns) -> np.ndarray:
    """Return each picture's width and height in pixels: int64 (n, 2)."""

    def make() -> np.ndarray:
        return np.stack(
            [np.array(values_of(pictures.records, side), np.int64) for side in ("width", "height")],
            axis=1,
        )

    return pictures.column("sides", make).reshape(-1, 2)


def _by_licence(pictures: Columns, value: str) -> np.ndarray:
    """Compare with whole licences; ``none`` stands for pictures without one."""
    names, of_rows = licences(pictures)
    wanted = [at for at, name in enumerate(names) if name == ("" if value == "none" else value)]
    met: np.ndarray = np.isin(of_rows, wanted)
    return met


def licences(pictures: Columns) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the licences there are in lower case, "" for none, and each picture's: int32 (n,)."""

    def make() -> tuple[tuple[str, ...], np.ndarray]:
        given = [(each or "").lower() for each in values_of(pictures.records, "license")]
        names = tuple(sorted(set(given)))
        places = {name: at for at, name in enumerate(names)}
        return names, np.fromiter((places[each] for each in given), np.int32, len(given))

    return pictures.column("licences", make)


def _by_shape(pictures: Columns, value: str) -> np.ndarray:
    width, height = sides(pictures).T
    square = np.abs(width - height) <= SQUARE * np.minimum(width, height)
    met: np.ndarray = {
        "square": square,
        "landscape": ~square & (width > height),
        "portrait": ~square & (width < height),
    }[value]
    return met


def _by_size(pictures: Columns, value: str) -> np.ndarray:
    met: np.ndarray = sides(pictures).prod(axis=1) >= float(value) * 1e6
    return met


def _by_sureness(pictures: Columns, value: str) -> np.ndarray:
    sure = sure_captions(pictures)
    return sure if value == "yes" else ~sure


def sure_captions(pictures: Columns) -> np.ndarray:
    """Return whether each picture's first caption has no doubt on it: bool (n,)."""

    def make() -> np.ndarray:
        flags = values_of(pictures.records, "caption_flags")
        return np.array([UNSURE not in each for each in flags], np.bool_)

    return pictures.column("sure", make)


def _by_caption(pictures: Columns, value: str) -> np.ndarray:
    """Look for whole words in a row, in any of a picture's captions."""

    def make() -> np.ndarray:
        first = values_of(pictures.records, "caption")
        more = values_of(pictures.records, "more_captions")
        return np.array(
            [
                "|".join(map(_spaced, (text, *(caption.text for caption in others))))
                for text, others in zip(first, more, strict=True)
            ],
            np.object_,
        )

    wanted = _spaced(value)
    texts = pictures.column("captions", make)
    return np.fromiter((wanted in text for text in texts), np.bool_, len(texts))


def _spaced(text: str) -> str:
    """Return the words of a text between spaces, in lower case."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


_MET: dict[str, Callable[[Columns, str], np.ndarray]] = {
    "licence": _by_licence,
    "shape": _by_shape,
    "megapixels": _by_size,
    "sure": _by_sureness,
    "caption": _by_caption,
}
