"""What becomes of a run of rows: the pictures taken, and the files left out with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from core.records import ImageRecord, record_from

if TYPE_CHECKING:
    from precompute.sources.types import Columns


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that cannot be used, and why."""

    file_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A file, or a row of a dataset, whose bytes are those of an earlier one.

    A shard knows of its own alone.

    Attributes:
        file_name: Its name.
        same_as: The name of the earlier one.
        id: Of the picture that is stored.
        references: Captions it came with; the picture gets them too.
        given: Its caption that is searched, for a picture whose own is blank.
        is_row: Whether it is but one more row of the picture, with another caption.
    """

    file_name: str
    same_as: str
    id: str = ""
    references: tuple[str, ...] = ()
    given: str = ""
    is_row: bool = False


def duplicate_of(
    file_name: str,
    first: str,
    image_id: str,
    references: tuple[str, ...],
    given: str,
    columns: Columns,
    kind: str,
) -> Duplicate:
    """Return what an earlier picture gets of a row with the same bytes: its captions.

    Args:
        file_name: Of the row.
        first: Name of the earlier picture.
        image_id: Of both.
        references: Captions of the row.
        given: Its caption that would be searched; "" for none.
        columns: Of the source.
        kind: Likewise.
    """
    if given and columns.given_is_reference:
        references = (given, *references)
    another_row = kind == "dataset" and bool(references)
    is_row = another_row or file_name == first
    return Duplicate(file_name, first, image_id, references, given, is_row=is_row)


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader should know of a picture that was taken."""

    file_name: str
    note: str


@dataclass(slots=True)
class Shard:
    """What became of a run of rows.

    Attributes:
        rows: Rows of the source that it covers.
        records: Pictures that were taken, in order.
        skipped: Files that cannot be used.
        duplicates: Files stored before.
        notes: Remarks about pictures that were taken.
    """

    rows: int = 0
    records: list[ImageRecord] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; :meth:`from_json` gives the same shard back."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Shard:
        """Read what :meth:`to_json` returned."""
        return cls(
            rows=content["rows"],
            records=[record_from(record) for record in content["records"]],
            skipped=[Skipped(**item) for item in content["skipped"]],
            duplicates=[
                Duplicate(**{**item, "references": tuple(item["references"])})
                for item in content["duplicates"]
            ],
            notes=[Note(**item) for item in content["notes"]],
        )
