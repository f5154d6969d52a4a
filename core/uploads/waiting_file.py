"""A file of an upload that waits to be described."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.images.decode import looks_like_picture


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file that was received and not yet described.

    Attributes:
        path: Where it lies in the upload's own folder, under a name of ours.
        file_name: Its owner's name for it, fit to show.
        size: Bytes.
    """

    path: Path
    file_name: str
    size: int

    @property
    def is_picture(self) -> bool:
        """Whether it begins like a picture; what it holds only a decoder can tell."""
        return looks_like_picture(self.path)
