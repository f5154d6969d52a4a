"""Where pictures come from: what every source yields, how columns are found, which reader fits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.errors import SourceError

CAPTION_COLUMNS = ("captions", "caption", "sentences", "text")
"""Names under which reference captions are found by themselves, in this order."""

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
"""Names under which images are looked for where no column is declared to hold images."""

LICENSE_COLUMNS = ("license", "licence")
URL_COLUMNS = ("source_url",)
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
"""Beside the images of an imagefolder: one row a file, named by ``file_name``."""

_DATASET_ID = re.compile(r"\A[\w][\w.-]*(/[\w][\w.-]*)?\Z", re.ASCII)
_SHOWN_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What to read.

    Attributes:
        source: A folder, an imagefolder, a saved or parquet dataset, or a Hugging Face id.
        split: Of a dataset, or a sub-folder of an imagefolder.
        subset: Configuration of a dataset that has several.
        revision: Commit, branch or tag of a Hub dataset; None takes the newest and pins it.
        image_column: None finds it.
        caption_column: Reference captions, for evaluation only; None finds them.
        caption_lines: Whether a text of several lines holds one caption a line.
        captions_from: Column whose captions are used instead of generated ones.
        limit: Most rows or files that are read; None reads all.
    """

    source: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    caption_lines: bool = False
    captions_from: str | None = None
    limit: int | None = None


class Opener(Protocol):
    """Content that is fetched when it is needed, on a decoding thread."""

    def __call__(self, max_bytes: int) -> bytes:
        """Return the content, reading at most one byte more than the limit."""
        ...


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One row of a source, its content not yet decoded.

    Attributes:
        file_name: Name as its owner knows it, relative to the source.
        content: A file, its bytes, or what fetches them; None if the row has no image.
        problem: Why there is no content, worded as the reason of an ImageError.
        given_caption: From the column asked for by ``captions_from``; None if it was not asked.
        references: Captions for evaluation.
        license: As the source says.
        source_url: As the source says.
    """

    file_name: str
    content: Path | bytes | Opener | None
    problem: str = ""
    given_caption: str | None = None
    references: tuple[str, ...] = ()
    license: str | None = None
    source_url: str | None = None


class Source(Protocol):
    """Rows in an order that does not change between two runs.

    Attributes:
        kind: ``folder``, ``imagefolder`` or ``dataset``.
        name: Shown to visitors: the folder's own name, or the Hugging Face id.
        split: Name of the split that is read, if there are any.
        revision: Commit of a Hub dataset.
        columns: Which column is what.
        total: Rows that will be read, if that is known beforehand.
        fingerprint: Changes when the content does, as far as can be told without reading it all.
    """

    kind: str
    name: str
    split: str | None
    revision: str | None
    columns: Columns
    total: int | None
    fingerprint: str

    def read(self, start: int) -> Iterator[SourceImage]:
        """Yield the rows from number ``start`` (from 0) up to the limit.

        Raises:
            SourceError: The source stopped answering.
        """
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a source is what; None where it has none."""

    image: str | None = None
    references: str | None = None
    given: str | None = None
    license: str | None = None
    source_url: str | None = None
    lines: bool = False

    def used(self) -> list[str]:
        """Return the distinct names, for reading no other columns."""
        names = (self.image, self.references, self.given, self.license, self.source_url)
        return list(dict.fromkeys(name for name in names if name is not None))

    def describe(
        self,
        row: Mapping[str, Any],
        file_name: str,
        content: Path | bytes | Opener | None,
        problem: str = "",
    ) -> SourceImage:
        """Make a :class:`SourceImage` of a row's other columns.

        A caption that is given, and so searched, is not a reference too: an evaluation that asks
        for the very text that is indexed measures nothing.

        Raises:
            SourceError: A column of captions holds numbers or bytes.
        """
        references = self._captions(row, self.references)
        given: str | None = None
        if self.given is not None:
            first, *_ = self._captions(row, self.given) or ("",)
            given = first
            if self.given == self.references:
                references = references[1:]
        return SourceImage(
            file_name=file_name,
            content=content,
            problem=problem,
            given_caption=given,
            references=references,
            license=_text(row.get(self.license)) if self.license else None,
            source_url=_text(row.get(self.source_url)) if self.source_url else None,
        )

    def _captions(self, row: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
        value = row.get(column) if column is not None else None
        reject_numbers(value, column)
        if self.lines and isinstance(value, str):
            return captions_of(value.splitlines())
        return captions_of(value)


def find_columns(names: Sequence[str], options: SourceOptions, image: str | None) -> Columns:
    """Return which of a source's columns is what.

    Args:
        names: All columns.
        options: Names that were asked for.
        image: Column of the images, already found.

    Raises:
        SourceError: A column that was asked for does not exist.
    """
    for wanted in (options.caption_column, options.captions_from):
        if wanted is not None:
            check_column(wanted, names, options.source)
    return Columns(
        image=image,
        references=options.caption_column or _first(CAPTION_COLUMNS, names),
        given=options.captions_from,
        license=_first(LICENSE_COLUMNS, names),
        source_url=_first(URL_COLUMNS, names),
        lines=options.caption_lines,
    )


def check_column(wanted: str, names: Sequence[str], source: str) -> None:
    """Raise SourceError, naming the columns there are, unless ``wanted`` is one of them."""
    if wanted in names:
        return
    if not names:
        raise SourceError(
            f"{source} has no column {wanted!r}: it is a plain folder, without a "
            f"{' or '.join(METADATA_FILES)}."
        )
    shown = ", ".join(names[:_SHOWN_COLUMNS]) + (", …" if len(names) > _SHOWN_COLUMNS else "")
    raise SourceError(f"{source} has no column {wanted!r}; it has: {shown}.")


def reject_numbers(value: Any, column: str | None) -> None:  # noqa: ANN401 - whatever a row holds
    """Raise SourceError if a value of a column of captions is a number or bytes."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, (int, float, bytes)):
        raise SourceError(f"The column {column!r} holds {type(first).__name__}, not text.")


def captions_of(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever a row holds
    """Return the captions in a value: a string, a list of them, or rows with a ``raw`` text."""
    if isinstance(value, str):
        text = " ".join(value.split())
        return (text,) if text else ()
    if isinstance(value, Mapping):
        key = _first(("raw", "caption", "text", "sentence"), list(value))
        return captions_of(value[key]) if key else ()
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(text for item in value for text in captions_of(item))
    return ()


def printable_name(name: str) -> str:
    """Return a file's name as text that can be written as UTF-8, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def open_source(options: SourceOptions) -> Source:
    """Find what ``options.source`` is and open it; nothing is decoded yet.

    Raises:
        SourceError: It does not exist, is empty, cannot be reached, or lacks a column.
    """
    if options.limit is not None and options.limit < 1:
        raise SourceError(f"--limit must be 1 or more, not {options.limit}.")
    path = Path(options.source).expanduser()
    if path.exists():
        return _open_local(path, options)
    if options.source.count("/") > 1 or not _DATASET_ID.match(options.source):
        raise SourceError(f"There is no folder {options.source}.")
    from precompute.dataset_source import open_hub_dataset

    return open_hub_dataset(options)


def _open_local(path: Path, options: SourceOptions) -> Source:
    from precompute.folder_source import FolderSource

    if path.is_dir() and not _is_dataset_folder(path):
        return FolderSource(path, options)
    if path.is_file() and path.suffix != ".parquet":
        raise SourceError(f"{options.source} is a file; a source is a folder or a dataset.")
    from precompute.dataset_source import open_local_dataset

    return open_local_dataset(path, options)


def _is_dataset_folder(path: Path) -> bool:
    """Tell a dataset written by ``datasets``, or a folder of parquet files, from one of images."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return True
    if any((path / name).is_file() for name in METADATA_FILES):
        return False
    return any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))


def _first(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _text(value: Any) -> str | None:  # noqa: ANN401 - whatever a row holds
    return (" ".join(str(value).split()) or None) if value is not None else None
