"""Which columns of a source hold captions, and the captions in a row, however they are kept."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import SourceError
from core.text import has_content, one_line

CAPTION_COLUMNS = (
    *("captions", "caption", "sentences", "text"),
    *("sentence", "raw", "description", "comment", "txt", "alt_text"),
)
"""Names under which reference captions are found by themselves, in this order; after them come
numbered ones, such as ``caption_0`` to ``caption_4``."""

_KEYS = ("raw", "caption", "captions", "text", "sentence", "sentences")
_NUMBERED = re.compile(r"(.*?)[ _.-]?(\d{1,3})")
_MISSING = {"nan", "none", "null", "<na>"}
_SHOWN_COLUMNS = 20
_SPACING = {tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}


@dataclass(frozen=True, slots=True)
class CaptionColumn:
    """Where the captions of a row are.

    Attributes:
        name: As a user names it: a column, ``captions.en``, or ``caption`` for a numbered series.
        columns: The columns, read in this order.
        keys: What to take of a value that holds several texts by name: ``("en",)``.
    """

    name: str
    columns: tuple[str, ...]
    keys: tuple[str, ...] = ()

    def captions(self, row: Mapping[str, Any], *, lines: bool = False) -> tuple[str, ...]:
        """Return the captions of a row, cleaned; none that is blank.

        Args:
            row: Values by column.
            lines: Whether a text of several lines holds one caption a line.
        """
        found: list[str] = []
        for column in self.columns:
            value = self.value(row.get(column))
            if lines and isinstance(value, str):
                value = value.splitlines()
            if isinstance(value, (int, float)):
                # A caption such as "2024", among others that are text.
                value = str(value)
            found += captions_of(value)
        return tuple(found)

    def value(self, value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
        """Follow the keys into a value, or into each value of a list."""
        for key in self.keys:
            value = _read_written(value)
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
                value = [item.get(key) for item in value if isinstance(item, Mapping)]
            else:
                return None
        return value

    def check(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raise SourceError if the rows hold no text here, but numbers or a choice of texts."""
        for column in self.columns:
            check_texts((self.value(row.get(column)) for row in rows), self.name)


def find_captions(names: Sequence[str]) -> CaptionColumn | None:
    """Return the captions among a source's columns, found by their usual names."""
    folded = {name.strip().lower(): name for name in reversed(names)}
    for usual in CAPTION_COLUMNS:
        if usual in folded:
            return CaptionColumn(folded[usual], (folded[usual],))
    for usual in CAPTION_COLUMNS:
        if series := _series(usual, names):
            return CaptionColumn(usual, series)
    return None


def named_captions(name: str, names: Sequence[str], source: str) -> CaptionColumn:
    """Return the captions that a user named: a column, ``column.key``, or a numbered series.

    Raises:
        SourceError: There are none of that name.
    """
    column, _, keys = name.partition(".")
    if name not in names:
        if series := _series(name.lower(), names):
            return CaptionColumn(name, series)
        if keys and column in names:
            return CaptionColumn(name, (column,), tuple(keys.split(".")))
        check_column(name, names, source)
    return CaptionColumn(name, (name,))


def check_column(name: str, names: Sequence[str], source: str) -> None:
    """Raise SourceError, naming the columns there are, unless ``name`` is one of them."""
    if name in names:
        return
    if not names:
        raise SourceError(
            f"{source} has no column {name!r}: it is a plain folder, without a "
            "metadata.jsonl or metadata.csv."
        )
    raise SourceError(f"{source} has no column {name!r}; it has: {shown_columns(names)}.")


def shown_columns(names: Sequence[str]) -> str:
    """Return the names of a source's columns for a sentence."""
    return ", ".join(names[:_SHOWN_COLUMNS]) + (", …" if len(names) > _SHOWN_COLUMNS else "")


def no_captions(names: Sequence[str]) -> str:
    """Return the sentence for a source in whose columns no captions were found."""
    return (
        f"No column is known to hold captions; there are: {shown_columns(names)}. Name it with "
        "--caption-column."
    )


def check_texts(values: Iterable[Any], column: str) -> None:
    """Raise SourceError if all of some values are numbers or bytes, or texts to choose among."""
    wrong = ""
    for value in values:
        first = _first_of(value)
        if isinstance(first, Mapping) and _key(first) is None:
            refuse_choice(column, list(first))
        if isinstance(first, (int, float, bytes)):
            wrong = wrong or type(first).__name__
        elif first is not None:
            return
    if wrong:
        raise SourceError(f"The column {column!r} holds {wrong}, not text.")


def holds_captions(values: Iterable[Any]) -> bool | None:
    """Tell whether there is text in some values, or texts by name; None if all are blank."""
    blank = True
    for first in map(_first_of, values):
        if isinstance(first, Mapping) or captions_of(first):
            return True
        blank &= first is None or isinstance(first, str)
    return None if blank else False


def _first_of(value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
    """Return the first value that is there in a list, at any depth."""
    value = _read_written(value)
    while not isinstance(value, (str, bytes, Mapping)) and isinstance(value, Sequence):
        value = next((item for item in value if not _missing(item)), None)
    return None if _missing(value) else value


def refuse_choice(column: str, keys: Sequence[str]) -> None:
    """Raise SourceError: a column holds several texts by name, none of which is the caption."""
    names = ", ".join(str(key) for key in keys[:_SHOWN_COLUMNS])
    example = f"{column}.{keys[0]}" if keys else column
    raise SourceError(
        f"The column {column!r} holds several values by name: {names}. Choose one, such as "
        f"{example}, with --captions-from or --caption-column."
    )


def caption_key(names: Iterable[str]) -> str | None:
    """Return which of the parts of a value is its caption by its usual name."""
    found = list(names)
    return next((key for key in _KEYS if key in found), None)


def captions_of(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever a row holds
    """Return the captions in a value, cleaned.

    A value is a string, a list of them, a numpy array, or rows with a text of a usual name such
    as ``raw``. A string that is a list or such a row, as JSON, Python or numpy writes it, is that:
    a table of text has no other way to hold five captions. What is missing (None, NaN, ``nan``)
    is none.
    """
    value = _read_written(value)
    if isinstance(value, str):
        text = one_line(value)
        return (text,) if has_content(text) and text.lower() not in _MISSING else ()
    if isinstance(value, Mapping):
        key = _key(value)
        return captions_of(value[key]) if key is not None else ()
    if hasattr(value, "tolist"):
        return captions_of(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return tuple(text for item in value for text in captions_of(item))
    return ()


def merged(*parts: Iterable[str]) -> tuple[str, ...]:
    """Return the captions of several rows of one picture, in order, none twice."""
    return tuple(dict.fromkeys(text for part in parts for text in part))


def text_of(value: Any) -> str | None:  # noqa: ANN401 - whatever a row holds
    """Return a licence or an address as one clean line; None if it is missing."""
    return None if _missing(value) else one_line(str(value)) or None


def _missing(value: Any) -> bool:  # noqa: ANN401 - NaN is what pandas writes for nothing
    return value is None or (isinstance(value, float) and value != value)


def _key(value: Mapping[Any, Any]) -> str | None:
    return caption_key(key for key in value if isinstance(key, str))


def _series(stem: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that are one name with numbers behind, by number."""
    found = []
    for name in names:
        numbered = _NUMBERED.fullmatch(name.strip().lower())
        if numbered and numbered[1] == stem:
            found.append((int(numbered[2]), name))
    return tuple(name for _, name in sorted(found))


def _read_written(value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
    """Read a text that is a list of captions, or texts by name, as such; return others as is."""
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] + text[-1:] not in ("[]", "{}", "()"):
        return value
    for read in (json.loads, _strings_of_list, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(found, (Mapping, list, tuple, set)):  # one value in brackets
            continue
        items = found.values() if isinstance(found, Mapping) else found
        texts = (str, list) if isinstance(found, Mapping) else (str, list, Mapping)
        if all(_missing(item) or isinstance(item, texts) for item in items):
            return found
    return value


def _strings_of_list(text: str) -> list[str]:
    """Return the strings of a list with or without commas: numpy writes none between them."""
    strings: list[str] = []
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError as error:
        raise ValueError("not a list") from error
    for token in tokens:
        if token.type == tokenize.STRING:
            strings.append(ast.literal_eval(token.string))
        elif token.type not in _SPACING and token.string not in ("[", ",", "]", "None", "nan"):
            raise ValueError("not a list of strings")
    return strings
