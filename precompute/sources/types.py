"""What every source of pictures yields, and how its columns are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.text import whole_characters
from precompute.sources.caption_columns import (
    CaptionColumn,
    find_captions,
    merged,
    named_captions,
    text_of,
)

IMAGE_COLUMNS = (
    *("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    *("images", "imgs", "pictures", "photos"),
)
"""Names under which images are looked for where no column is declared to hold images."""

LICENSE_COLUMNS = ("license", "licence", "licensename")
URL_COLUMNS = ("source_url", "pageurl")
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
"""Beside or above the images of an imagefolder: one row or more a file, which it names."""


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
        remarks: Sentences for the operator about what was found and how it was read.
    """

    kind: str
    name: str
    split: str | None
    revision: str | None
    columns: Columns
    total: int | None
    fingerprint: str
    remarks: list[str]

    def entry(self, start: int) -> int:
        """Return the row, at most ``start``, from which the source has to be read to get there.

        Raises:
            SourceError: The source stopped answering.
        """
        ...

    def read(self, start: int) -> Iterator[SourceImage]:
        """Yield the rows from number ``start`` (from 0) up to the limit.

        Raises:
            SourceError: The source stopped answering.
        """
        ...


class KeptSource(Source, Protocol):
    """A source whose pictures lie on this machine and can be read again, in any order."""

    def content(self, row: int) -> Path | bytes | Opener:
        """Return the encoded picture of a row, which has one."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a source is what; None where it has none.

    Attributes:
        names: All columns there are.
    """

    image: str | None = None
    references: CaptionColumn | None = None
    given: CaptionColumn | None = None
    license: str | None = None
    source_url: str | None = None
    lines: bool = False
    names: tuple[str, ...] = ()

    @property
    def given_is_reference(self) -> bool:
        """Whether the caption that is given is one of the references, were it not given."""
        if self.given is None or self.references is None:
            return False
        return bool({*self.given.columns} & {*self.references.columns})

    def used(self) -> list[str]:
        """Return the distinct names, for reading no other columns."""
        names = [self.image, self.license, self.source_url]
        for captions in (self.references, self.given):
            names += captions.columns if captions is not None else ()
        return list(dict.fromkeys(name for name in names if name is not None))

    def describe(
        self,
        rows: Sequence[Mapping[str, Any]],
        file_name: str,
        content: Path | bytes | Opener | None,
        problem: str = "",
    ) -> SourceImage:
        """Make a :class:`SourceImage` of the other columns of a picture's rows.

        A picture may have a row for each of its captions: it gets them all, and the first licence
        and address. A caption that is given, and so searched, is not a reference too: an
        evaluation that asks for the very text that is indexed measures nothing.
        """
        references = self._captions(rows, self.references)
        given: str | None = None
        if self.given is not None:
            found = self._captions(rows, self.given)
            given = found[0] if found else ""
            if self.given_is_reference and given in references:
                place = references.index(given)
                references = references[:place] + references[place + 1 :]
        return SourceImage(
            file_name=file_name,
            content=content,
            problem=problem,
            given_caption=given,
            references=references,
            license=_first_text(rows, self.license),
            source_url=_first_text(rows, self.source_url),
        )

    def _captions(
        self, rows: Sequence[Mapping[str, Any]], column: CaptionColumn | None
    ) -> tuple[str, ...]:
        if column is None:
            return ()
        found = [column.captions(row, lines=self.lines) for row in rows]
        return found[0] if len(found) == 1 else merged(*found)


def find_columns(
    names: Sequence[str],
    options: SourceOptions,
    image: str | None,
    holds_captions: Callable[[str], bool | None],
) -> Columns:
    """Return which of a source's columns is what.

    Args:
        names: All columns.
        options: Names that were asked for.
        image: Column of the images, already found.
        holds_captions: Whether a column that nobody named holds text; None if it is blank.

    Raises:
        SourceError: A column that was asked for does not exist.
    """
    given, references = (
        named_captions(named, names, options.source) if named is not None else None
        for named in (options.captions_from, options.caption_column)
    )
    if references is None:
        found = {name: holds_captions(name) for name in names if name != image}
        references = find_captions([name for name in found if found[name]])
        references = references or find_captions([n for n in found if found[n] is not False])
        if given is not None and references is not None and given.columns == references.columns:
            # One text of several by name: those of the others are not references to it.
            references = given
    return Columns(
        image=image,
        references=references,
        given=given,
        license=_first(LICENSE_COLUMNS, names),
        source_url=_first(URL_COLUMNS, names),
        lines=options.caption_lines,
        names=tuple(names),
    )


def printable_name(name: str) -> str:
    """Return a file's name as text that can be written as UTF-8, whatever its bytes are."""
    return whole_characters(name)


def _first(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _first_text(rows: Sequence[Mapping[str, Any]], column: str | None) -> str | None:
    if column is None:
        return None
    return next((text for row in rows if (text := text_of(row.get(column))) is not None), None)
