"""The ids of many pictures: 20 bytes each, found by bisection instead of a dict of strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ID_DIGITS = 16

_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class ImageIds(Sequence[str]):
    """Ids of 16 hex digits in row order, each held as the number it is.

    Args:
        numbers: uint64 (n,), none twice.

    Raises:
        ValueError: An id comes twice; the message says which, and where.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        """Sort the numbers once."""
        self._numbers = numbers
        self._rows = np.argsort(numbers, kind="stable").astype(np.int32)
        self._sorted = numbers[self._rows]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if twice.size:
            row = int(self._rows[twice + 1].min())
            raise ValueError(f"the id {self[row]} comes twice, again at record {row}")

    @classmethod
    def of(cls, ids: Iterable[str]) -> ImageIds:
        """Hold ids that are known to be 16 hex digits each."""
        return cls(np.array([int(image_id, 16) for image_id in ids], np.uint64))

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> ImageIds:
        """Hold the ids of a table.

        Raises:
            ValueError: One is not 16 lower-case hex digits, or comes twice.
        """
        return cls(hex_numbers(column, ID_DIGITS)[:, 0])

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._numbers)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Return the id of a row, or those of some."""
        if isinstance(row, slice):
            return [f"{number:016x}" for number in self._numbers[row].tolist()]
        return f"{int(self._numbers[row]):016x}"

    def __iter__(self) -> Iterator[str]:
        """Return all ids, in row order."""
        return (f"{int(number):016x}" for number in self._numbers)

    def __contains__(self, image_id: object) -> bool:
        """Tell whether there is a picture of this id."""
        return self.row_of(image_id) is not None

    def row_of(self, image_id: object) -> int | None:
        """Return the row of an id, whatever a visitor gave for one; None if there is none."""
        if not isinstance(image_id, str) or len(image_id) != ID_DIGITS:
            return None
        try:
            number = int(image_id, 16)
        except ValueError:
            return None
        if f"{number:016x}" != image_id:  # int() also takes signs, blanks and underscores
            return None
        at = int(np.searchsorted(self._sorted, np.uint64(number)))
        if at == len(self) or self._sorted[at] != number:
            return None
        return int(self._rows[at])


def hex_numbers(column: pa.ChunkedArray, digits: int) -> np.ndarray:
    """Return texts of hex digits as numbers: uint64 (n, digits / 16), the first 16 digits first.

    Args:
        column: Texts.
        digits: Of each; a multiple of 16.

    Raises:
        ValueError: A text has another length, or something else in it.
    """
    parts = [np.zeros((0, digits // 16), np.uint64)]
    row = 0
    for chunk in column.chunks:
        parts.append(_hex_numbers(chunk, digits, row))
        row += len(chunk)
    return np.concatenate(parts)


def _hex_numbers(chunk: pa.StringArray, digits: int, row: int) -> np.ndarray:
    if chunk.null_count:
        raise ValueError(f"a record of {row} and later has no text where {digits} digits are due")
    if not len(chunk):
        return np.zeros((0, digits // 16), np.uint64)
    _, ends, content = chunk.buffers()
    offsets = np.frombuffer(ends, np.int32, len(chunk) + 1, 4 * chunk.offset)
    lengths = np.diff(offsets)
    unlike = np.flatnonzero(lengths != digits)
    if unlike.size:
        at = int(unlike[0])
        raise ValueError(f"record {row + at} has {chunk[at].as_py()[:80]!r}, not {digits} digits")
    # Texts of one length that follow each other are a table of characters.
    size = digits * len(chunk)
    letters = np.frombuffer(content, np.uint8, size, int(offsets[0])).reshape(-1, digits)
    values = _DIGITS[letters]
    wrong = np.flatnonzero((values == _NO_DIGIT).any(axis=1))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(f"record {row + at} has {chunk[at].as_py()[:80]!r}, not hex digits")
    octets = np.ascontiguousarray(values[:, ::2] << 4 | values[:, 1::2])
    return octets.view(">u8").astype(np.uint64)
