"""What one upload may hold, and what its visitor is told of the files that it does not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from core.errors import UploadError
from core.images.decode import DecodeLimits
from core.text import has_content, one_line

if TYPE_CHECKING:
    from core.config import Settings

NoticeKind = Literal["refused", "duplicate", "note"]

MAX_CAPTION_CHARS = 500

NOTICES_KEPT = 100
"""Notices of one upload that are kept, the newest; of the others their number."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much one upload may hold.

    Attributes:
        files: Most photos.
        bytes: Most bytes of their files together.
        pixels: Most pixels of all photos together.
        decode: What a single file may be.
    """

    files: int
    bytes: int
    pixels: int
    decode: DecodeLimits

    @classmethod
    def of(cls, settings: Settings) -> UploadLimits:
        """Take the limits from the settings."""
        return cls(
            files=settings.max_upload_files,
            bytes=settings.max_upload_bytes,
            pixels=settings.max_upload_pixels,
            decode=DecodeLimits.of(settings),
        )

    def refusal(self, size: int, held_files: int, held_bytes: int) -> str:
        """Return why a file of ``size`` bytes finds no room beside what is held; "" if it does."""
        if size > self.decode.max_bytes:
            return f"is larger than the limit of {self.decode.max_bytes / 1e6:,.1f} MB"
        if held_files >= self.files:
            return f"is beyond the limit of {self.files:,} photos in one upload"
        if held_bytes + size > self.bytes:
            return f"is beyond the limit of {self.bytes / 1e6:,.0f} MB in one upload"
        return ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a visitor should know about one file.

    Attributes:
        kind: ``refused``, ``duplicate`` (kept once), or ``note`` (kept, with a remark).
        file_name: Fit to show.
        reason: Continues the name: "is truncated".
    """

    kind: NoticeKind
    file_name: str
    reason: str


class Notices:
    """What a visitor is told of their files: the newest notices, and how many there were.

    Attributes:
        side_files: JSON files that were left out: Google Takeout writes one beside each photo.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.side_files = 0
        self._newest: deque[Notice] = deque(maxlen=NOTICES_KEPT)
        self._counts: Counter[NoticeKind] = Counter()

    def __iter__(self) -> Iterator[Notice]:
        """Go through the newest, in the order in which they came."""
        return iter(tuple(self._newest))

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._newest)

    def add(self, notice: Notice) -> None:
        """Keep a notice, in the place of the oldest if need be."""
        self._newest.append(notice)
        self._counts[notice.kind] += 1

    def count(self, kind: NoticeKind) -> int:
        """Return how many of a kind there were, kept or not."""
        return self._counts[kind]

    def newest(self, most: int) -> list[Notice]:
        """Return at most so many, the newest last."""
        return list(self)[-most:]

    @property
    def total(self) -> int:
        """How many there were, kept or not."""
        return self._counts.total()


def disk_trouble(error: OSError) -> str:
    """Return why something could not be stored, to continue a sentence, without a path in it."""
    return f"could not be stored on the server ({error.strerror or 'unknown reason'})"


def checked_caption(text: str) -> str:
    """Return a caption that a person wrote as one line, or raise one clear sentence.

    It is cleaned as queries are, by :func:`core.text.one_line`.

    Raises:
        UploadError: Not a text, nothing in it, or too long.
    """
    if not isinstance(text, str):
        raise UploadError("A caption must be a text.")
    stripped = text.strip()
    if len(stripped) > MAX_CAPTION_CHARS:
        raise UploadError(
            f"The caption has {len(stripped):,} characters; at most {MAX_CAPTION_CHARS} are kept."
        )
    line = one_line(stripped)
    if not has_content(line):
        raise UploadError("A caption needs at least one word.")
    return line
