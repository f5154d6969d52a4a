"""Finished shards become one gallery: duplicates across shards are settled, all else is copied.

Shards are read again and again, one at a time: memory holds 8 bytes for each picture, its id, and
what was left out, not the pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from core.gallery.layout import embeddings_file
from core.records import ImageRecord, Lens
from precompute.build.shards.shard import Duplicate, Note, Skipped, duplicate_of
from precompute.sources.caption_columns import merged

if TYPE_CHECKING:
    from core.describing import Describer
    from precompute.build.workspace import Workspace
    from precompute.sources.types import Source


@dataclass(slots=True)
class Assembly:
    """What all shards together hold.

    Attributes:
        records: The pictures of the gallery.
        skipped: Files that cannot be used.
        duplicates: Files and rows whose bytes an earlier one has.
        notes: Remarks about pictures of the gallery.
        rows: Rows of the source.
    """

    records: ShardRecords
    skipped: list[Skipped] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    rows: int = 0


class ShardRecords(Sequence[ImageRecord]):
    """The records of all shards without those that an earlier shard has, read when needed.

    Args:
        workspace: Holds the shards.
        kept: For each shard and each of its records whether it is the first of its picture.
        more: What duplicates add to a picture, by its id.
    """

    def __init__(
        self,
        workspace: Workspace,
        kept: Sequence[np.ndarray],
        more: Mapping[str, Sequence[Duplicate]],
    ) -> None:
        """Hold the parts."""
        self._workspace, self._kept, self._more = workspace, kept, more
        self._ends = np.cumsum([mask.sum() for mask in kept])
        self._read: tuple[int, list[ImageRecord]] = (-1, [])

    def __len__(self) -> int:
        """Return the number of pictures."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield the records in order."""
        for number in range(len(self._kept)):
            for record in self.stored(number):
                yield self._with_more(record)

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, row: slice) -> list[ImageRecord]: ...

    def __getitem__(self, row: int | slice) -> ImageRecord | list[ImageRecord]:
        """Return a record, or several."""
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        place = range(len(self))[row]
        number = int(np.searchsorted(self._ends, place, side="right"))
        if self._read[0] != number:
            self._read = (number, list(self.stored(number)))
        start = int(self._ends[number - 1]) if number else 0
        return self._with_more(self._read[1][place - start])

    def stored(self, number: int) -> Iterator[ImageRecord]:
        """Yield the records of a shard that count, as they are there."""
        records = self._workspace.shard(number).records
        yield from (one for one, kept in zip(records, self._kept[number], strict=True) if kept)

    def _with_more(self, record: ImageRecord) -> ImageRecord:
        """Return a record with what files and rows of the same bytes add.

        A record whose given caption is blank gets the first one with words, and all get the
        references. A text that is searched as the picture's caption is no reference to it.
        """
        duplicates = self._more.get(record.id)
        if not duplicates:
            return record
        given = next((item.given for item in duplicates if item.given), "")
        if given and not record.caption:
            record = replace(record, caption=given, caption_flags=())
        found = merged(record.references, *(item.references for item in duplicates))
        references = (text for text in found if text in record.references or text != record.caption)
        return replace(record, references=tuple(references))

    def write_embeddings(self, folder: Path, describer: Describer) -> dict[Lens, np.ndarray]:
        """Gather the embeddings of the records in files; return them, mapped into memory.

        A caption that a duplicate gave is embedded now.

        Args:
            folder: For the files.
            describer: Whose sentence encoder embeds.
        """
        captions = self._gathered(folder / embeddings_file("captions"), "captions")
        clip = self._gathered(folder / embeddings_file("clip"), "clip")
        changed: list[tuple[int, str]] = []
        row = 0
        for number in range(len(self._kept)):
            for record in self.stored(number):
                full = self._with_more(record)
                if full.caption != record.caption:  # then it is given, and has one row
                    changed.append((row, full.caption))
                row += 1 + len(record.more_captions)
        if changed:
            captions[[row for row, _ in changed]] = describer.embed_texts(
                [text for _, text in changed]
            )
        return {"captions": captions, "clip": clip}

    def _gathered(self, path: Path, lens: Lens) -> np.ndarray:
        shapes = [self._of_shard(number, lens).shape for number in range(len(self._kept))]
        shape = (sum(count for count, _ in shapes), shapes[0][1])
        rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        start = 0
        for number, (count, _) in enumerate(shapes):
            rows[start : start + count] = self._of_shard(number, lens)
            start += count
        return rows

    def _of_shard(self, number: int, lens: Lens) -> np.ndarray:
        found = self._workspace.embeddings(number, lens)
        mask = self._kept[number]
        if mask.all():
            return found
        if lens == "captions":
            counts = [1 + len(one.more_captions) for one in self._workspace.shard(number).records]
            mask = np.repeat(mask, counts)
        kept: np.ndarray = found[mask]
        return kept


def assemble(workspace: Workspace, count: int, source: Source) -> Assembly:
    """Go through the shards once and settle what belongs to which picture.

    Of pictures with the same bytes the first one stays, in whatever order shards were made.

    Args:
        workspace: Holds ``count`` finished shards.
        count: As said.
        source: What they were made of.
    """
    kept, repeated = _firsts(workspace, count)
    names: dict[str, str] = {}
    more: dict[str, list[Duplicate]] = defaultdict(list)
    whole = Assembly(ShardRecords(workspace, kept, more))
    for number in range(count):
        shard = workspace.shard(number)
        whole.rows += shard.rows
        whole.skipped += shard.skipped
        dropped = set()
        for record, is_first in zip(shard.records, kept[number], strict=True):
            if is_first:
                if record.id in repeated:
                    names[record.id] = record.file_name
                continue
            dropped.add(record.file_name)
            found = _duplicate(record, names[record.id], source)
            more[record.id].append(found)
            whole.duplicates.append(found)
        for item in shard.duplicates:
            name = names[item.id]
            found = replace(item, same_as=name, is_row=item.is_row or item.file_name == name)
            more[item.id].append(found)
            whole.duplicates.append(found)
        whole.notes += [note for note in shard.notes if note.file_name not in dropped]
    return whole


def _firsts(workspace: Workspace, count: int) -> tuple[list[np.ndarray], set[str]]:
    """Return for each record of each shard whether it is its picture's first; ids that come again.

    Args:
        workspace: Holds ``count`` finished shards.
        count: As said.
    """
    numbers: list[np.ndarray] = []
    repeated: set[str] = set()
    for number in range(count):
        shard = workspace.shard(number)
        numbers.append(np.array([int(record.id, 16) for record in shard.records], np.uint64))
        repeated.update(item.id for item in shard.duplicates)
    joined = np.concatenate([np.zeros(0, np.uint64), *numbers])
    is_first = np.zeros(len(joined), bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    repeated.update(f"{again:016x}" for again in joined[~is_first])
    ends = np.cumsum([len(of_shard) for of_shard in numbers])
    return np.split(is_first, ends)[:-1], repeated


def _duplicate(record: ImageRecord, first: str, source: Source) -> Duplicate:
    given = record.caption if source.columns.given is not None else ""
    return duplicate_of(
        record.file_name, first, record.id, record.references, given, source.columns, source.kind
    )
