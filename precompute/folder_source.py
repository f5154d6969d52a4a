"""A folder of images, with or without a metadata file beside them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import SourceError
from precompute.sources import (
    METADATA_FILES,
    SourceImage,
    SourceOptions,
    find_columns,
    printable_name,
)

_IMAGE_COLUMN = "image"
_FILE_COLUMN = "file_name"
_MAX_CSV_FIELD = 1 << 24
Row = dict[str, Any]


class FolderSource:
    """Every file below a folder, in the order of their relative names.

    Hidden files and folders are left out, and so are the metadata files. All others are read,
    so that what cannot be used is reported with its reason.

    Args:
        folder: Where to look, recursively; links to folders are not followed.
        options: See :class:`~precompute.sources.SourceOptions`.

    Raises:
        SourceError: No file, no such split or column, or metadata that cannot be read.
    """

    revision: str | None = None

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        """List the files and read the metadata; open no image."""
        if options.subset or options.revision:
            raise SourceError("--subset and --revision are for datasets, not for folders.")
        self.split = options.split
        self._root = _split_folder(folder, options)
        self.name = printable_name(folder.resolve().name) or "folder"
        self._problems: dict[str, str] = {}
        files = self._walk()
        rows = self._metadata(files)
        self.kind = "folder" if rows is None else "imagefolder"
        self._rows = rows or {}
        column_names = list(dict.fromkeys(name for row in self._rows.values() for name in row))
        if options.image_column not in (None, _IMAGE_COLUMN):
            raise SourceError(
                f"The images of a folder are the column {_IMAGE_COLUMN!r}, "
                f"not {options.image_column!r}."
            )
        self.columns = find_columns(column_names, options, None)
        names = sorted({*files, *self._rows, *self._problems})
        if not names:
            raise SourceError(f"{options.source} holds no image: it has no file at all.")
        self._names = names[: options.limit]
        self.total: int | None = len(self._names)
        self.fingerprint = self._fingerprint(files)

    def read(self, start: int) -> Iterator[SourceImage]:
        """Yield the files from number ``start`` on."""
        for name in self._names[start:]:
            path = self._root / name
            problem = self._problems.get(name, "")
            row = self._rows.get(name, {})
            if not problem and name in self._rows and not os.path.lexists(path):
                problem = "is named in the metadata but does not exist"
            yield self.columns.describe(
                row, printable_name(name), None if problem else path, problem
            )

    def _walk(self) -> list[str]:
        def refuse(error: OSError) -> None:
            inside = os.path.relpath(error.filename, self._root)
            if inside == ".":
                raise SourceError(f"{self._root} cannot be read ({error.strerror}).")
            self._problems[Path(inside).as_posix()] = f"cannot be read ({error.strerror})"

        found = []
        for folder, folders, files in os.walk(self._root, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(folder).relative_to(self._root)
            found += [
                (inside / name).as_posix()
                for name in files
                if not name.startswith(".") and name not in METADATA_FILES
            ]
        return found

    def _metadata(self, files: list[str]) -> dict[str, Row] | None:
        """Return the metadata rows by relative name, or None if there is no metadata file."""
        folders = {PurePosixPath(name).parent for name in files} | {PurePosixPath()}
        rows: dict[str, Row] | None = None
        for folder in sorted(folders):
            for file_name in METADATA_FILES:
                path = self._root / folder / file_name
                if path.is_file():
                    rows = {} if rows is None else rows
                    for row in _read_table(path):
                        self._add(rows, folder, row, path)
                    break
        return rows

    def _add(self, rows: dict[str, Row], folder: PurePosixPath, row: Row, path: Path) -> None:
        name = row.get(_FILE_COLUMN)
        if not isinstance(name, str) or not name.strip():
            raise SourceError(
                f"{path.name} has a row without {_FILE_COLUMN}: every row names its image by it."
            )
        inside = os.path.normpath(folder / name)
        if os.path.isabs(name) or inside.startswith(".."):
            self._problems[name] = "is named in the metadata but lies outside the source"
            return
        rows[Path(inside).as_posix()] = row

    def _fingerprint(self, files: list[str]) -> str:
        present = set(files)
        digest = hashlib.sha256()
        for name in self._names:
            size, changed = -1, -1
            if name in present:
                try:
                    status = (self._root / name).stat()
                    size, changed = status.st_size, status.st_mtime_ns
                except OSError:
                    pass
            row = json.dumps(self._rows.get(name), sort_keys=True, default=str)
            digest.update(f"{printable_name(name)}\0{size}\0{changed}\0{row}\n".encode())
        return digest.hexdigest()


def _split_folder(folder: Path, options: SourceOptions) -> Path:
    if options.split is None:
        return folder
    splits = [path.name for path in folder.iterdir() if path.is_dir()]
    if options.split not in splits:
        raise SourceError(f"{options.source} has no split {options.split!r}: no such sub-folder.")
    return folder / options.split


def _read_table(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                csv.field_size_limit(_MAX_CSV_FIELD)
                for row in csv.DictReader(file):
                    yield {name: _cell(value) for name, value in row.items() if name is not None}
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, path.name, number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path.name} cannot be read ({error}).") from error


def _cell(value: Any) -> Any:  # noqa: ANN401 - csv gives text, None or a list of surplus cells
    """Return a list where a cell holds one as JSON: CSV has no other way to hold five captions."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _parse(line: str, file_name: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"Line {number} of {file_name} is not valid JSON.") from error
    if not isinstance(row, dict):
        raise SourceError(f"Line {number} of {file_name} is not a JSON object.")
    return row
