"""A folder of images, with or without a metadata file beside them."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import SourceError
from precompute.sources.caption_columns import holds_captions, no_captions
from precompute.sources.photo_folders.folder_listing import FolderListing
from precompute.sources.photo_folders.metadata_tables import FileNames, Row, read_table
from precompute.sources.photo_folders.side_files import find_side_files
from precompute.sources.types import (
    METADATA_FILES,
    Columns,
    SourceImage,
    SourceOptions,
    find_columns,
    printable_name,
)

_IMAGE_COLUMN = "image"
_TABLE = re.compile(
    r"\A[^/]*(\.csv|\.tsv|\.jsonl|(caption|metadata|annotation|token)[^/]*\.(json|txt))\Z", re.I
)
"""Files beside photos that may hold captions, but by another name."""

_OTHER_SPLITS = {"test", "val", "valid", "validation", "dev", "eval"}


class FolderSource:
    """Every file below a folder, in the order of their relative names.

    Hidden files and folders are left out, and so are the metadata files, what systems leave, and
    files that tell of a photo beside them, whose captions are read where there is no table. All
    others are read, so that what cannot be used is reported with its reason.

    Args:
        folder: Where to look, recursively, as :class:`FolderListing` does.
        options: See :class:`~precompute.sources.types.SourceOptions`.

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
        listing = FolderListing(self._root)
        self._problems = dict(listing.problems)
        files = [name for name in listing.files if posixpath.basename(name) not in METADATA_FILES]
        self.remarks: list[str] = []
        self._rows: dict[str, list[Row]] = defaultdict(list)
        tables = self._tables(folder, files)
        side = find_side_files(self._root, files)
        files = [name for name in files if name not in side.names]
        self.kind = "imagefolder" if tables else "folder"
        self._column_names: dict[str, None] = {}
        if tables:
            names_of_files = FileNames(files, self._root)
            for table in tables:
                self._add(table, folder, names_of_files, options)
            if side.first:
                self.remarks.append(
                    f"{side.first} and its like are not read as captions: {tables[0].name} is."
                )
        elif side.first:
            self._rows.update(side.rows)
            told = side.rows.values()
            self._column_names |= dict.fromkeys(key for rows in told for row in rows for key in row)
            self.remarks.append(
                f"Photos with a caption in a file beside them, such as {side.first}: "
                f"{len(side.rows):,}."
            )
        elif other := [name for name in sorted(files) if _TABLE.search(name)]:
            self.remarks.append(
                f"{other[0]} is not read as captions: name a table of them {METADATA_FILES[1]}."
            )
        self.columns = self._find_columns(options)
        names = sorted({*files, *self._rows, *self._problems})
        if not names:
            raise SourceError(f"{options.source} holds no image: it has no file at all.")
        self._names = names[: options.limit]
        self.total: int | None = len(self._names)
        self.fingerprint = self._fingerprint(listing.stamps)

    def entry(self, start: int) -> int:
        """Return the number of a file, for it can be read at once."""
        return start

    def read(self, start: int) -> Iterator[SourceImage]:
        """Yield the files from number ``start`` on."""
        for name in self._names[start:]:
            problem = self._problems.get(name, "")
            yield self.columns.describe(
                self._rows.get(name, ()),
                printable_name(name),
                None if problem else self._root / name,
                problem,
            )

    def content(self, row: int) -> Path:
        """Return the file of a row."""
        return self._root / self._names[row]

    def _tables(self, folder: Path, files: Iterable[str]) -> list[Path]:
        """Return the metadata files above the split, at its top and in its folders."""
        inside = {posixpath.dirname(name) for name in files} | {""}
        folders = [self._root / name for name in sorted(inside)]
        if self._root != folder:
            folders.insert(0, folder)
        paths = [folder / file_name for folder in folders for file_name in METADATA_FILES]
        return [path for path in paths if path.is_file()]

    def _add(self, path: Path, folder: Path, names: FileNames, options: SourceOptions) -> None:
        """Give the rows of a table to the files that they name."""
        chosen = options.image_column if options.image_column != _IMAGE_COLUMN else None
        table = read_table(path, chosen)
        self.remarks += table.remarks
        self._column_names |= dict.fromkeys(name for row in table.rows for name in row)
        above = path.parent == folder != self._root
        where = "" if above else path.parent.relative_to(self._root).as_posix().removeprefix(".")
        for row in table.rows:
            name = row[table.file_column]
            if above and (name := self._in_split(name, row)) is None:
                continue
            found, problem = names.find(where, name)
            if problem and isinstance(split := row.get("split"), str):
                inside = names.find(where, f"{split}/{name}")
                found, problem = (found, problem) if inside[1] else inside
            if problem:
                self._problems[found] = problem
            self._rows[found].append(row)

    def _in_split(self, name: Any, row: Row) -> str | None:  # noqa: ANN401 - a cell
        """Return a name in a table above the splits as it is in this split; None if in another."""
        first, slash, rest = str(name).replace("\\", "/").removeprefix("./").partition("/")
        if slash:
            return rest if first == self.split else None
        return first if row.get("split") == self.split else None

    def _find_columns(self, options: SourceOptions) -> Columns:
        """Return which column is what, once it is known to hold text."""
        names = list(self._column_names)
        if options.image_column not in (None, _IMAGE_COLUMN, *names):
            raise SourceError(
                f"The images of a folder are the column {_IMAGE_COLUMN!r}, "
                f"not {options.image_column!r}."
            )
        rows = [row for of_file in self._rows.values() for row in of_file]
        columns = find_columns(
            names, options, None, lambda name: holds_captions(row.get(name) for row in rows)
        )
        for captions in (columns.given, columns.references):
            if captions is not None:
                captions.check(rows)
        if names and columns.given is None and columns.references is None:
            self.remarks.append(no_captions(names))
        return columns

    def _fingerprint(self, stamps: Mapping[str, tuple[int, int]]) -> str:
        digest = hashlib.sha256()
        for name in self._names:
            size, changed = stamps.get(name, (-1, -1))
            row = json.dumps(self._rows.get(name), sort_keys=True, default=str)
            digest.update(f"{printable_name(name)}\0{size}\0{changed}\0{row}\n".encode())
        return digest.hexdigest()


def with_train_split(folder: Path, options: SourceOptions) -> SourceOptions:
    """Ask for the sub-folder ``train`` if no split is asked for and others lie beside it.

    Whoever trains on all of a folder would train on what is kept for the test.
    """
    beside = {path.name.lower() for path in folder.iterdir() if path.is_dir()} & _OTHER_SPLITS
    if options.split is None and beside and (folder / "train").is_dir():
        return replace(options, split="train")
    return options


def _split_folder(folder: Path, options: SourceOptions) -> Path:
    if options.split is None:
        return folder
    splits = [path.name for path in folder.iterdir() if path.is_dir()]
    if options.split not in splits:
        raise SourceError(f"{options.source} has no split {options.split!r}: no such sub-folder.")
    return folder / options.split
