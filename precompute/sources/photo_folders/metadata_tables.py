"""Tables beside photos (CSV, TSV, JSON lines, parquet): their rows, and the file each means."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import SourceError
from core.text import composed, one_line, whole_characters
from precompute.sources.caption_columns import shown_columns

FILE_COLUMNS = (
    *("file_name", "filename", "file", "image_file_name", "image_file", "image_filename"),
    *("image_path", "file_path", "filepath", "path", "image_name", "image", "img", "img_path"),
    *("photo", "picture", "image_id", "img_id", "id", "key"),
)
"""Names of the column that says which file a row is about, the surest first."""

OUTSIDE = "is named in the metadata but lies outside the source"
ABSENT = "is named in the metadata but does not exist"

Row = dict[str, Any]

_MAX_CSV_FIELD = 1 << 24
_DELIMITERS = ("\t", ";", "|")
_QUOTED: Any = {"quoting": csv.QUOTE_MINIMAL, "skipinitialspace": True}
_UNQUOTED: Any = {"quoting": csv.QUOTE_NONE, "skipinitialspace": True}
_DRIVE = re.compile(r"[A-Za-z]:/")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}\Z")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Attributes:
        rows: Values by column, in order; none without the name of a file.
        file_column: The column that names it.
        remarks: Sentences for the operator.
    """

    rows: list[Row]
    file_column: str
    remarks: list[str]


def read_table(path: Path, file_column: str | None = None) -> Table:
    """Read a table; its format goes by the suffix.

    Args:
        path: A ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file.
        file_column: The column that names the files; found where there is none such.

    Raises:
        SourceError: It cannot be read, or no column names files.
    """
    remarks: list[str] = []
    rows = _trimmed(rows_of(path, remarks))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return Table([], FILE_COLUMNS[0], remarks)
    if file_column not in names:
        folded = {name.lower(): name for name in reversed(names)}
        file_column = next((folded[usual] for usual in FILE_COLUMNS if usual in folded), None)
    if file_column is None:
        raise SourceError(
            f"{path.name} has no column that names the images, such as {FILE_COLUMNS[0]}; it has: "
            f"{shown_columns(names)}."
        )
    named = [row for row in rows if _name(row.get(file_column))]
    if len(named) < len(rows):
        remarks.append(
            f"{path.name}: rows left out because they name no file in the column "
            f"{file_column!r}: {len(rows) - len(named):,}."
        )
    return Table(named, file_column, remarks)


class FileNames:
    """Finds the files that rows mean: names change between systems, and by hand.

    Args:
        files: Names relative to the source, with ``/``.
        root: Where they lie.
    """

    def __init__(self, files: Iterable[str], root: Path) -> None:
        """Index the names; open nothing."""
        self._files = set(files)
        self._root = root
        self._top = f"{root.resolve()}/"
        self._found: dict[tuple[str, str], tuple[str, str]] = {}
        self._spellings: dict[str, set[str]] = defaultdict(set)
        self._stems: dict[str, set[str]] = defaultdict(set)
        for name in self._files:
            plain = _spelled(name)
            base = posixpath.basename(plain)
            for key in {plain, plain.lower()}:
                self._spellings[key].add(name)
            for key in {base, base.lower(), *_stems(base)}:
                self._stems[key].add(name)

    def find(self, folder: str, value: Any) -> tuple[str, str]:  # noqa: ANN401 - a cell
        """Return the file that a row means, and what is wrong with it, if anything.

        A name is looked for as it is; then whichever slash and Unicode form it has; then in other
        letter case; a bare name or number at last anywhere below, with or without its suffix.
        Only a single file that fits is taken.

        Args:
            folder: Of the table, relative to the source; ``""`` is the source itself.
            value: What names the file.
        """
        if isinstance(value, str):
            exact = posixpath.normpath(posixpath.join(folder, value))
            if exact in self._files:
                return exact, ""
        name = _name(value)
        # A picture may have many rows.
        if (folder, name) not in self._found:
            self._found[folder, name] = self._search(folder, name)
        return self._found[folder, name]

    def _search(self, folder: str, name: str) -> tuple[str, str]:
        if name.startswith(self._top):
            folder, name = "", name.removeprefix(self._top)
        exact = posixpath.normpath(posixpath.join(folder, name))
        slashes = composed(name.replace("\\", "/"))
        inside = posixpath.normpath(posixpath.join(folder, slashes))
        if slashes.startswith("/") or _DRIVE.match(slashes) or inside.split("/")[0] == "..":
            return whole_characters(name), OUTSIDE
        for key in (_spelled(inside), _spelled(inside).lower()):
            if len(found := self._spellings.get(key, ())) == 1:
                return next(iter(found)), ""
        if _lies(self._root / exact):
            return exact, ""
        if "/" not in slashes.removeprefix("./"):
            below = f"{folder}/" if folder else ""
            bare = posixpath.basename(inside)
            for key in (bare, bare.lower(), *([] if _SUFFIX.search(bare) else _stems(bare))):
                found = {name for name in self._stems.get(key, ()) if name.startswith(below)}
                if len(found) == 1:
                    return found.pop(), ""
        return whole_characters(exact), ABSENT


def _name(value: Any) -> str:  # noqa: ANN401 - a cell
    """Return the name in a cell: pandas writes the number 139 as 139.0 where others lack one."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    if isinstance(value, Mapping):
        return _name(value.get("path"))
    if not isinstance(value, (str, int)):
        return ""
    name = str(value).strip()
    return name.removesuffix(".0") if name.removesuffix(".0").isdecimal() else name


def _spelled(name: str) -> str:
    return composed(whole_characters(name))


def _stems(base: str) -> set[str]:
    """Return a name without suffix, and without the noughts that COCO pads its numbers with."""
    stem = _SUFFIX.sub("", base)
    return {stem, stem.lstrip("0") or "0"} if stem.isdecimal() else {stem}


def _lies(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def rows_of(path: Path, remarks: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a table as they are; its format goes by the suffix.

    Args:
        path: See :func:`read_table`.
        remarks: Gets sentences for the operator.

    Raises:
        SourceError: It cannot be read.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    text = _text(path)
    if path.suffix == ".jsonl":
        return _json_lines(text, path.name)
    return _separated(text, path, [] if remarks is None else remarks)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read ({error.strerror}).") from error
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path.name} cannot be read: it is not UTF-8 text (byte {error.start:,}). Save it as "
            "UTF-8."
        ) from error


def _json_lines(text: str, file_name: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"Line {number} of {file_name} is not valid JSON.") from error
        if not isinstance(row, dict):
            raise SourceError(f"Line {number} of {file_name} is not a JSON object.")
        yield row


def _separated(text: str, path: Path, remarks: list[str]) -> Iterator[Row]:
    """Read CSV or TSV; a caption with a comma that nobody put in quotes is put together again."""
    delimiter, text = _delimiter(text, path.suffix)
    header: list[str] = []
    first = count = 0
    try:
        for number, cells in _cells(text, delimiter, path.name, remarks):
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = cells
                continue
            columns = len(header)
            if any(cell.strip() for cell in cells[columns:]):
                first, count = first or number, count + 1
                text = f"{delimiter} ".join(cell.strip() for cell in cells[columns - 1 :])
                cells = [*cells[: columns - 1], text]
            yield _row(header, cells)
    except csv.Error as error:
        raise SourceError(f"{path.name} cannot be read ({error}).") from error
    if first:
        remarks.append(
            f"{path.name}: rows with more cells than the header: {count:,}, the first in line "
            f"{first}. What is over was put to the last column, {header[-1].strip()!r}. A text "
            f"that holds {delimiter!r} must stand in quotes, or it is cut."
        )


def _row(header: list[str], cells: list[str]) -> Row:
    """Return the cells by column; those of columns of one name are a list."""
    row: Row = dict(zip(header, cells, strict=False))
    if len(row) < min(len(header), len(cells)):
        for name in {name for name in header if header.count(name) > 1}:
            row[name] = [
                cell for column, cell in zip(header, cells, strict=False) if column == name
            ]
    return row


def _delimiter(text: str, suffix: str) -> tuple[str, str]:
    """Return what separates the cells, and the text without a line that says so."""
    if declared := re.match(r"sep=(.)\r?\n", text):
        return declared[1], text[declared.end() :]
    header = text.partition("\n")[0]
    usual = "\t" if suffix == ".tsv" else ","
    if usual in header:
        return usual, text
    return next((other for other in _DELIMITERS if other in header), usual), text


def _cells(
    text: str, delimiter: str, file_name: str, remarks: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of a line and its cells.

    A quote that nobody closed would swallow all lines up to the next one: then a line is read by
    itself, its quotes as signs where they are odd.
    """
    csv.field_size_limit(_MAX_CSV_FIELD)
    if '\\"' in text and '""' not in text:
        text = text.replace('\\"', '""')
    if text.count('"') % 2 == 0:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **_QUOTED)
        for cells in reader:
            yield reader.line_num, cells
        return
    first = 0
    for number, line in enumerate(text.split("\n"), 1):
        odd = line.count('"') % 2 == 1
        first = first or (number if odd else 0)
        quoted = _UNQUOTED if odd else _QUOTED
        for cells in csv.reader([line.rstrip("\r")], delimiter=delimiter, **quoted):
            yield number, cells
    remarks.append(
        f"A quote in {file_name} is not closed, in line {first} or after it: each line was read by "
        "itself."
    )


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            yield from pq.read_table(file).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path.name} cannot be read ({reason}).") from error


def _trimmed(rows: Iterable[Mapping[Any, Any]]) -> list[Row]:
    """Return the rows with clean names of columns."""
    clean: dict[Any, str] = {}
    found = []
    for row in rows:
        for name in row:
            if name not in clean:
                clean[name] = one_line(str(name))
        found.append({clean[name]: value for name, value in row.items()})
    return found
