"""What a build made of its source, and the report that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from core.records import ImageRecord
from precompute.build.shards.shard import Duplicate, Note, Skipped


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made of its source.

    Attributes:
        images: Pictures in the gallery.
        skipped: Files that could not be used.
        duplicates: Files whose bytes had been stored before.
        notes: Remarks about pictures that were taken.
        resumed_rows: Rows that an earlier, interrupted run had done.
        seconds: Time of this run.
        images_per_second: Of this run, over the rows it did itself.
        merged_rows: Rows that gave captions to a picture that an earlier row had named.
    """

    images: int
    skipped: tuple[Skipped, ...]
    duplicates: tuple[Duplicate, ...]
    notes: tuple[Note, ...]
    resumed_rows: int
    seconds: float
    images_per_second: float
    merged_rows: int = 0


def report_of(
    source: str, profile: str, result: BuildResult, records: Iterable[ImageRecord]
) -> dict[str, Any]:
    """Return the content of ``build_report.json``; it is published with the gallery.

    Args:
        source: Name of the source, never its full path.
        profile: Name of the profile.
        result: What the build made.
        records: Pictures in the gallery.
    """
    flags: Counter[str] = Counter()
    with_text = 0
    for record in records:
        flags.update(record.caption_flags)
        with_text += bool(record.text_in_picture)
    return {
        "source": source,
        "profile": profile,
        "counts": {
            "images": result.images,
            "duplicates": len(result.duplicates),
            "skipped": len(result.skipped),
        },
        "merged_rows": result.merged_rows,
        "caption_flags": dict(sorted(flags.items())),
        "with_text": with_text,
        "seconds": round(result.seconds, 2),
        "images_per_second": round(result.images_per_second, 2),
        "resumed_rows": result.resumed_rows,
        "skipped": [asdict(item) for item in result.skipped],
        "duplicates": [
            {"file_name": item.file_name, "same_as": item.same_as} for item in result.duplicates
        ],
        "notes": [asdict(item) for item in result.notes],
    }
