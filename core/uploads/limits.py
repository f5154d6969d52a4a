"""What one upload may hold, and what its visitor is told of the files that it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from core.errors import UploadError
from core.images.decode import DecodeLimits
from core.text import has_content, one_line

if TYPE_CHECKING:
    from core.config import Settings

MAX_CAPTION_CHARS = 500


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


@dataclass(frozen=True, slots=True)
class Notice:
    """What a visitor should know about one file.

    Attributes:
        kind: ``refused``, ``duplicate`` (kept once), or ``note`` (kept, with a remark).
        file_name: Fit to show.
        reason: Continues the name: "is truncated".
    """

    kind: Literal["refused", "duplicate", "note"]
    file_name: str
    reason: str


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
