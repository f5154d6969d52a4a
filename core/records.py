"""The small frozen values that every layer speaks in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Lens = Literal["captions", "clip"]
"""The two ways to search: by generated captions, or by CLIP's joint space."""

LENSES: tuple[Lens, ...] = get_args(Lens)

IndexKind = Literal["flat", "ivf"]
"""``flat`` compares with every vector; ``ivf`` with those of the nearest clusters only."""

INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)


CORRECTED = "corrected"
"""Caption flag: a person wrote it in the captioner's place."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What a captioner says of one image.

    Attributes:
        text: The caption; empty only if ``flags`` holds ``"empty"``.
        flags: Doubts about the text, from ``"empty"``, ``"repetition"``, ``"prompt_echo"``
            ``"retried"`` (a second decoding was used) and :data:`CORRECTED`.
        confidence: Mean probability of the generated tokens in [0, 1]; None where unknown.
    """

    text: str
    flags: tuple[str, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture of a gallery or an upload.

    Attributes:
        id: The first 16 hex digits of ``sha256``: stable over rebuilds.
        file_name: Name as its owner knows it, relative to the source.
        sha256: Hex digest of the encoded bytes.
        width: Pixels, after EXIF orientation, before any reduction.
        height: Pixels, likewise.
        caption: Generated caption, or the one given by the source.
        caption_flags: See :class:`Caption`.
        confidence: See :class:`Caption`.
        references: Captions that came with the source; for evaluation only, never searched.
        license: Licence of the picture, if the source says.
        source_url: Where the picture comes from, if the source says.
    """

    id: str
    file_name: str
    sha256: str
    width: int
    height: int
    caption: str
    caption_flags: tuple[str, ...] = ()
    confidence: float | None = None
    references: tuple[str, ...] = ()
    license: str | None = None
    source_url: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One entry of a ranking.

    Attributes:
        id: Image id.
        score: Inner product of unit vectors, in [-1, 1]; higher is better.
        rank: From 1.
    """

    id: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class FusedHit:
    """One entry of a ranking made from several.

    Attributes:
        id: Image id.
        score: Fusion score; higher is better.
        rank: From 1.
        sources: The hit in each ranking that held the image, by the ranking's name.
    """

    id: str
    score: float
    rank: int
    sources: Mapping[str, Hit] = field(default_factory=dict)
