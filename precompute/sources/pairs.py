"""Images with their captions, from whatever ``build`` reads too."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.config import get_settings
from core.errors import ImageError, SourceError
from core.files import sha256_of
from core.images.decode import WORKING_PX, DecodeLimits, decode
from precompute.sources.caption_columns import merged
from precompute.sources.open import open_kept_source
from precompute.sources.types import METADATA_FILES, KeptSource, SourceOptions

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

_NAMED_SKIPPED = 10
_MAX_DECODERS = 4
_CHECKED_PX = 32
_NO_TABLE = f"Put a {METADATA_FILES[0]} or {METADATA_FILES[1]} beside the photos."


class Photo(NamedTuple):
    """An image of a source, still encoded.

    Attributes:
        file_name: What the source calls it.
        size: In bytes; 0 where it is known only once it is fetched.
        place: Its file, or its row in the source.
        sha256: Hex digest of its bytes where it was needed to tell it from others; else empty.
    """

    file_name: str
    size: int
    place: Path | int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A sequence of (RGB image, its captions); images are decoded when asked for.

    Attributes:
        source: What the images are read from.
        photos: The images.
        captions: The captions of every image, at least one each, cleaned.
        name: What the images are, for a report: the source, and its split if one was asked for.
    """

    source: KeptSource
    photos: tuple[Photo, ...]
    captions: tuple[tuple[str, ...], ...]
    name: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.captions)

    @property
    def fingerprint(self) -> str:
        """A digest of every image's name and size in bytes, and of the captions.

        The same rows have the same digest wherever they lie, unlike the one that ``datasets``
        gives them, which follows the spelling of the path.
        """
        digest = hashlib.sha256()
        for photo, captions in zip(self.photos, self.captions, strict=True):
            name = Path(photo.file_name).name
            digest.update(json.dumps([name, photo.size, captions]).encode())
        return digest.hexdigest()[:16]

    def spread(self, count: int) -> Pairs:
        """Return so many images, spread evenly over all; all of them if there are not more."""
        return self._select(range(0, len(self), max(1, len(self) // count))[:count])

    def _select(self, rows: Sequence[int]) -> Pairs:
        photos = tuple(self.photos[row] for row in rows)
        return replace(self, photos=photos, captions=tuple(self.captions[row] for row in rows))

    def readable(self) -> Pairs:
        """Return the images that can be decoded; the others are named in the log.

        Every image is decoded once, small, before hours of training meet a broken one.

        Raises:
            SourceError: None can be.
        """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_MAX_DECODERS) as decoders:
            problems = list(decoders.map(self._problem, range(len(self))))
        broken = [problem for problem in problems if problem]
        if not broken:
            return self
        _log_left_out(self.name, broken)
        if len(broken) == len(self):
            raise SourceError(f"{self.name} holds no usable image: the first, {broken[0]}.")
        return self._select([row for row, problem in enumerate(problems) if not problem])

    def _problem(self, row: int) -> str:
        try:
            self._decoded(row, _CHECKED_PX)
        except ImageError as error:
            return f"{self.file_name(row)} {error.reason}"
        return ""

    def file_name(self, row: int) -> str:
        """Return what the source calls an image, or its row number."""
        return self.photos[row].file_name

    def image(self, row: int) -> Image:
        """Decode one image.

        Raises:
            ImageError: It cannot be decoded.
            SourceError: The source stopped answering.
        """
        return self._decoded(row, WORKING_PX)

    def _decoded(self, row: int, working_px: int) -> Image:
        photo, limits = self.photos[row], DecodeLimits.of(get_settings())
        content = self.source.content(photo.place) if isinstance(photo.place, int) else photo.place
        if not isinstance(content, (bytes, Path)):
            content = content(limits.max_bytes)
        return decode(content, photo.file_name, limits, working_px).image


def load_pairs(
    source: str,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    limit: int | None = None,
    *,
    revision: str | None = None,
) -> Pairs:
    """Load images with captions, as ``build`` reads them.

    Images with the same bytes are one, with the captions of all. An image that is listed but is
    not there is named in the log and left out.

    Args:
        source: A folder with metadata beside or above its photos, a saved or parquet dataset, or
            the id of a dataset on the Hub.
        split: A split of the dataset, or a sub-folder; if None, all there is, or ``train`` where
            other splits lie beside it.
        image_column: If None, found as :mod:`precompute.sources` finds it.
        caption_column: One or several captions a row; None likewise.
        limit: Keep the first images only.
        revision: Commit, branch or tag of a Hub dataset.

    Raises:
        SourceError: The source cannot be read, or lacks the split, the columns, or any caption.
    """
    opened = open_kept_source(
        SourceOptions(
            source,
            split,
            revision=revision,
            image_column=image_column,
            caption_column=caption_column,
        )
    )
    column = opened.columns.references
    if column is None:
        raise SourceError(f"{source} has no captions. {' '.join(opened.remarks) or _NO_TABLE}")
    if opened.kind != "dataset" and opened.split != split:
        logger.warning("%s: of its splits only %s is read; see --split.", source, opened.split)
    for remark in opened.remarks:
        logger.warning("%s: %s", source, remark)
    photos, captions, problems = _captioned(opened)
    if problems:
        _log_left_out(source, problems)
    photos, captions = _one_of_each(photos, captions)
    if not photos:
        raise SourceError(f"The column {column.name} of {source} holds no captions.")
    name = f"{opened.name}:{opened.split}" if opened.split and split else opened.name
    return Pairs(opened, tuple(photos[:limit]), tuple(captions[:limit]), name)


def _log_left_out(source: str, problems: Sequence[str]) -> None:
    named = "; ".join(problems[:_NAMED_SKIPPED])
    more = len(problems) - _NAMED_SKIPPED
    rest = f"; and {more:,} more" if more > 0 else ""
    logger.warning("%s: photos left out: %s. %s%s.", source, f"{len(problems):,}", named, rest)


def _captioned(source: KeptSource) -> tuple[list[Photo], list[tuple[str, ...]], list[str]]:
    """Return the images that have captions, their captions, and why others are left out."""
    photos: list[Photo] = []
    captions: list[tuple[str, ...]] = []
    problems: list[str] = []
    for number, row in enumerate(source.read(0)):
        content = row.content
        problem = row.problem
        if content is None or not row.references:
            problems += [f"{row.file_name} {problem}"] if problem else []
            continue
        photo = Photo(row.file_name, 0, number)
        if isinstance(content, bytes):
            digest = hashlib.sha256(content).hexdigest()
            photo = Photo(row.file_name, len(content), number, digest)
        elif isinstance(content, Path):
            try:
                photo = Photo(row.file_name, content.stat().st_size, content)
            except OSError as error:
                problems.append(f"{row.file_name} cannot be read ({error.strerror})")
                continue
        photos.append(photo)
        captions.append(row.references)
    return photos, captions, problems


def _one_of_each(
    photos: Sequence[Photo], captions: Sequence[tuple[str, ...]]
) -> tuple[list[Photo], list[tuple[str, ...]]]:
    """Return images of which no two have the same bytes, each with the captions of all of them.

    As each other's negatives they would teach that a picture differs from itself.
    """
    sizes = Counter(photo.size for photo in photos)
    place: dict[str, int] = {}
    kept: list[Photo] = []
    merged_captions: list[tuple[str, ...]] = []
    for photo, texts in zip(photos, captions, strict=True):
        if isinstance(photo.place, Path) and sizes[photo.size] > 1:
            photo = photo._replace(sha256=sha256_of(photo.place))
        first = place.setdefault(photo.sha256, len(kept)) if photo.sha256 else len(kept)
        if first < len(kept):
            merged_captions[first] = merged(merged_captions[first], texts)
            continue
        kept.append(photo)
        merged_captions.append(texts)
    return kept, merged_captions
