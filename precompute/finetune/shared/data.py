"""Images with their captions, from a Hugging Face dataset or an imagefolder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import get_settings
from core.errors import SourceError
from core.images import DecodeLimits, decode
from precompute.dataset_source import find_image_column
from precompute.metrics import normalise_caption
from precompute.sources import (
    CAPTION_COLUMNS,
    SourceOptions,
    captions_of,
    find_columns,
    reject_numbers,
)

if TYPE_CHECKING:
    import datasets
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Pairs:
    """A sequence of (RGB image, its captions); images are decoded when asked for.

    Attributes:
        dataset: The rows, images still encoded.
        image_column: Which column holds the image.
        captions: The captions of every row, at least one each, stripped.
        name: What the rows are, for a report: the source, and its split if one was asked for.
        whole: What these rows were chosen from, if they were chosen.
        rows: Which rows of ``whole`` they are.
    """

    dataset: datasets.Dataset
    image_column: str
    captions: tuple[tuple[str, ...], ...]
    name: str
    whole: Pairs | None = None
    rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.captions)

    def __getitem__(self, row: int) -> tuple[Image, tuple[str, ...]]:
        """Return the image and the captions of a row."""
        return self.image(row), self.captions[row]

    def __iter__(self) -> Iterator[tuple[Image, tuple[str, ...]]]:
        """Yield every row in order."""
        return (self[row] for row in range(len(self)))

    @property
    def fingerprint(self) -> str:
        """A digest of every image's name and size in bytes, and of the captions.

        The same rows have the same digest wherever they lie, unlike the one that ``datasets``
        gives them, which follows the spelling of the path.
        """
        digest = hashlib.sha256()
        for encoded, captions in zip(self.dataset[self.image_column], self.captions, strict=True):
            path, content = encoded.get("path") or "", encoded.get("bytes")
            size = len(content) if content else Path(path).stat().st_size
            digest.update(json.dumps([Path(path).name, size, captions]).encode())
        return digest.hexdigest()[:16]

    def select(self, rows: Sequence[int], name: str) -> Pairs:
        """Return some rows, in the order given, under another name."""
        return Pairs(
            self.dataset.select(rows),
            self.image_column,
            tuple(self.captions[row] for row in rows),
            name,
            self,
            tuple(rows),
        )

    def first(self, count: int | None) -> Pairs:
        """Return the first images; all of them for None."""
        if count is None or count >= len(self):
            return self
        whole, rows = self.whole or self, self.rows or tuple(range(len(self)))
        return whole.select(rows[:count], f"{self.name}, the first {count:,}")

    def about(self, words: Collection[str], without: Collection[str] = ()) -> Pairs:
        """Return the images that a caption of theirs puts in a domain.

        Args:
            words: One of these is in one of the image's captions; none asks for nothing.
            without: None of these is in any of its captions.

        Raises:
            SourceError: No image is left.
        """
        wanted, unwanted = set(words), set(without)
        if not wanted and not unwanted:
            return self
        rows = []
        for row, captions in enumerate(self.captions):
            said = {word for text in captions for word in normalise_caption(text).split()}
            if (not wanted or wanted & said) and not unwanted & said:
                rows.append(row)
        name = self.name
        name += f" with {', '.join(sorted(wanted))}" if wanted else ""
        name += f" without {', '.join(sorted(unwanted))}" if unwanted else ""
        if not rows:
            raise SourceError(f"No image of {self.name} has captions as asked for by the words.")
        return self.select(rows, name)

    def file_name(self, row: int) -> str:
        """Return what the source calls an image, or its row number."""
        path = self.dataset[row][self.image_column].get("path")
        return Path(path).name if path else f"row {row}"

    def image(self, row: int) -> Image:
        """Decode one image.

        Raises:
            ImageError: It cannot be decoded.
        """
        encoded = self.dataset[row][self.image_column]
        source = encoded["bytes"] if encoded.get("bytes") else Path(encoded["path"])
        return decode(source, self.file_name(row), DecodeLimits.of(get_settings())).image


def load_pairs(
    source: str,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    limit: int | None = None,
    *,
    revision: str | None = None,
) -> Pairs:
    """Load images with captions.

    Args:
        source: An imagefolder (``metadata.jsonl`` or ``metadata.csv`` holds the captions), or
            the id of a dataset on the Hub.
        split: Which split; if None, the only one, or ``train``.
        image_column: If None, found as :mod:`precompute.sources` finds it.
        caption_column: A string or a list of strings a row; None likewise.
        limit: Keep the first rows only.
        revision: Commit, branch or tag of a Hub dataset.

    Raises:
        SourceError: The source cannot be read, or lacks the split, the columns, or any caption.
    """
    import datasets

    rows = _load(source, split, revision)
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    options = SourceOptions(source, image_column=image_column, caption_column=caption_column)
    image_column = find_image_column(rows.features, options)
    caption_column = find_columns(list(rows.features), options, image_column).references
    if caption_column is None:
        raise SourceError(
            f"{source} has no column of captions (such as {', '.join(CAPTION_COLUMNS)}), only "
            f"{', '.join(rows.features)}. Name it with --caption-column."
        )
    values = rows[caption_column]
    reject_numbers(next((value for value in values if value), None), caption_column)
    captions = tuple(captions_of(value) for value in values)
    kept = [row for row, texts in enumerate(captions) if texts]
    if not kept:
        raise SourceError(f"The column {caption_column} of {source} holds no captions.")
    if len(kept) < len(captions):
        rows, captions = rows.select(kept), tuple(captions[row] for row in kept)
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return Pairs(rows, image_column, captions, _name(source, split))


def _name(source: str, split: str | None) -> str:
    folder = Path(source)
    name = folder.resolve().name if folder.is_dir() else source
    return f"{name}:{split}" if split else name


def _load(source: str, split: str | None, revision: str | None) -> datasets.Dataset:
    import datasets

    try:
        if Path(source).is_dir():
            splits = datasets.load_dataset("imagefolder", data_dir=source)
        else:
            splits = datasets.load_dataset(source, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        what = "folder or dataset" if not Path(source).exists() else "imagefolder"
        raise SourceError(f"{source} cannot be read as a {what} of images.") from error
    wanted = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if wanted not in splits:
        raise SourceError(f"{source} has no split {wanted!r}, only {', '.join(splits)}.")
    return splits[wanted]
