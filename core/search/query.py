"""What may be asked of a search, checked in one place."""

from __future__ import annotations

import numpy as np

from core.errors import QueryError
from core.records import INDEX_KINDS, LENSES, PLAIN_RRF, Fusion, IndexKind
from core.text import has_content, one_line

MAX_K = 50
"""Most hits that one search returns."""

MAX_START = 10_000
"""Most hits that are passed over in the API: each page ranks anew what is before it."""

_FUSIONS = ("default", "rrf", "zscore", "corrected")

MAX_QUERY_CHARS = 1000
"""Longest query that is answered where no other limit is set."""


def check_lens(lens: str) -> None:
    """Raise QueryError unless ``lens`` is one of :data:`core.records.LENSES`."""
    if lens not in LENSES:
        raise QueryError(f"Lens must be one of {', '.join(LENSES)}; got {str(lens)[:40]!r}.")


def check_index_kind(kind: str | None, offered: tuple[IndexKind, ...] = INDEX_KINDS) -> IndexKind:
    """Return the kind of index that is asked for.

    Args:
        kind: By name; None or "default" takes the best.
        offered: What there is, the best first.

    Raises:
        QueryError: No such kind, or none that is offered.
    """
    if kind is None or kind == "default":
        return offered[0]
    if kind not in INDEX_KINDS:
        raise QueryError(f"Index must be one of {', '.join(INDEX_KINDS)}; got {str(kind)[:40]!r}.")
    if kind not in offered:
        raise QueryError(f"This gallery has no {kind} index; it has {' and '.join(offered)}.")
    return kind  # type: ignore[return-value]  # it is one of them


def picture_count(k: object) -> int:
    """Return how many pictures were asked for, as 5 or, as JSON and sliders give it, 5.0.

    Raises:
        QueryError: Not a whole number from 1 to :data:`MAX_K`.
    """
    return _whole("The number of pictures (k)", k, 1, MAX_K)


def hits_before(start: object) -> int:
    """Return how many hits are passed over for a later page; 0 for None.

    Raises:
        QueryError: Not a whole number from 0 to :data:`MAX_START`.
    """
    return 0 if start is None else _whole("start", start, 0, MAX_START)


def probe_count(nprobe: object) -> int | None:
    """Return how many clusters are to be looked into; None leaves it to the index.

    Raises:
        QueryError: Not a whole number of 1 or more.
    """
    return None if nprobe is None else _whole("nprobe", nprobe, 1, None)


def fusion_of(kind: str, weight: object = None, default: Fusion | None = None) -> Fusion | None:
    """Return the fusion that is asked for by name.

    Args:
        kind: ``rrf``, ``zscore``, ``corrected`` or, for whatever is set for the models,
            ``default``.
        weight: Of the caption lens in a sum; None takes that of ``default`` if it is a sum too,
            else 0.5.
        default: What is set for the models.

    Returns:
        None for ``default``.

    Raises:
        QueryError: No such fusion, or a weight that is none, or one that would have no effect.
    """
    if kind not in _FUSIONS:
        raise QueryError(f"Fusion must be one of {', '.join(_FUSIONS)}; got {str(kind)[:40]!r}.")
    if weight is not None and kind not in ("zscore", "corrected"):
        raise QueryError("A caption weight goes with the fusions zscore and corrected only.")
    if kind == "default":
        return None
    if kind == "rrf":
        return PLAIN_RRF
    if weight is None:
        summed = default is not None and default.family == "sum"
        weight = default.weight if default and summed else 0.5
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= 1:  # type: ignore[operator]
        raise QueryError(f"The caption weight must be between 0 and 1; got {str(weight)[:40]!r}.")
    return Fusion(kind, float(weight))  # type: ignore[arg-type]


def normalise_query(query: object, max_chars: int = MAX_QUERY_CHARS) -> str:
    """Return the query as it is searched and cached, or raise one clear sentence.

    It is cleaned by :func:`core.text.one_line`.

    Args:
        query: What the visitor typed.
        max_chars: Longest query that is answered, counted without surrounding whitespace.

    Raises:
        QueryError: Not a text, nothing in it to search for, or too long.
    """
    if not isinstance(query, str):
        raise QueryError("The query must be a text.")
    stripped = query.strip()
    if len(stripped) > max_chars:
        raise QueryError(
            f"The query has {len(stripped):,} characters; at most {max_chars:,} are searched."
        )
    text = one_line(stripped)
    if not has_content(text):
        raise QueryError("Type what you are looking for: the query is empty.")
    return text


def _whole(name: str, value: object, low: int, high: int | None) -> int:
    is_number = isinstance(value, (int, float, np.integer)) and not isinstance(value, bool)
    if not is_number or not float(value).is_integer():  # type: ignore[arg-type]
        raise QueryError(f"{name} must be a whole number; got {str(value)[:40]!r}.")
    whole = int(value)  # type: ignore[call-overload]
    if whole < low or (high is not None and whole > high):
        limits = f"between {low} and {high}" if high is not None else f"{low} or more"
        raise QueryError(f"{name} must be {limits}; got {whole}.")
    return whole
