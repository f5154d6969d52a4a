"""Images with their captions, from a Hugging Face dataset or an imagefolder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import get_settings
from core.errors import SourceError
from core.images import DecodeLimits, decode

if TYPE_CHECKING:
    import datasets
    from PIL.Image import Image

CAPTION_COLUMNS = ("caption", "captions", "sentences", "text")
_SHOWN_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class Pairs:
    """A sequence of (RGB image, its captions); images are decoded when asked for.

    Attributes:
        dataset: The rows, images still encoded.
        image_column: Which column holds the image.
        captions: The captions of every row, at least one each, stripped.
        name: What the rows are, for a report: the source, and its split if one was asked for.
    """

    dataset: datasets.Dataset
    image_column: str
    captions: tuple[tuple[str, ...], ...]
    name: str

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
) -> Pairs:
    """Load images with captions.

    Args:
        source: An imagefolder (``metadata.jsonl`` or ``metadata.csv`` holds the captions), or
            the id of a dataset on the Hub.
        split: Which split; if None, the only one, or ``train``.
        image_column: If None, the first column of images.
        caption_column: A string or a list of strings a row; if None, the first of ``caption``,
            ``captions``, ``sentences`` and ``text`` that there is.
        limit: Keep the first rows only.

    Raises:
        SourceError: The source cannot be read, or lacks the split, the columns, or any caption.
    """
    import datasets

    rows = _load(source, split)
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    image_column = image_column or next(
        (name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)), None
    )
    caption_column = caption_column or next(
        (name for name in CAPTION_COLUMNS if name in rows.features), None
    )
    _require(source, rows.features, image_column, "images", "--image-column")
    _require(source, rows.features, caption_column, "captions", "--caption-column")
    captions = tuple(_captions(value) for value in rows[caption_column])
    kept = [row for row, texts in enumerate(captions) if texts]
    if not kept:
        raise SourceError(f"The column {caption_column} of {source} holds no captions.")
    if len(kept) < len(captions):
        rows, captions = rows.select(kept), tuple(captions[row] for row in kept)
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return Pairs(rows, str(image_column), captions, _name(source, split))


def _name(source: str, split: str | None) -> str:
    folder = Path(source)
    name = folder.resolve().name if folder.is_dir() else source
    return f"{name}:{split}" if split else name


def _load(source: str, split: str | None) -> datasets.Dataset:
    import datasets

    try:
        if Path(source).is_dir():
            splits = datasets.load_dataset("imagefolder", data_dir=source)
        else:
            splits = datasets.load_dataset(source)
    except (OSError, ValueError, RuntimeError) as error:
        what = "folder or dataset" if not Path(source).exists() else "imagefolder"
        raise SourceError(f"{source} cannot be read as a {what} of images.") from error
    wanted = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if wanted not in splits:
        raise SourceError(f"{source} has no split {wanted!r}, only {', '.join(splits)}.")
    return splits[wanted]


def _require(
    source: str, columns: Mapping[str, Any], name: str | None, what: str, option: str
) -> None:
    if name is None or name not in columns:
        missing = f"no column {name!r}" if name else f"no column of {what}"
        there = ", ".join(list(columns)[:_SHOWN_COLUMNS])
        raise SourceError(f"{source} has {missing}, only {there}. Name it with {option}.")


def _captions(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
