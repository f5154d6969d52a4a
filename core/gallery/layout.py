"""Names of the files of a gallery, in one place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from core.records import FAISS_KINDS, LENSES, IndexKind, Lens

MANIFEST_FILE = "manifest.json"
"""Written last: a folder without it is not a gallery."""

DATASET_INFO_FILE = "dataset_info.json"
DATASET_STATE_FILE = "state.json"
"""Both are what ``datasets.load_from_disk`` needs beside the shards."""

SHARD_PATTERN = "data-*-of-*.arrow"
"""Records with their thumbnails; their row order is that of every array and index."""

LARGE_FOLDER = "large"
"""Another such dataset: the large copies of pictures, of a gallery that keeps them."""

THUMBNAILS_FOLDER = "thumbnails"
"""Of pictures that are no gallery yet: of an upload, or of a build under way."""


def shard_file(number: int, count: int) -> str:
    """Return the name of a shard, counted from 0."""
    return f"data-{number:05d}-of-{count:05d}.arrow"


def shards_of(files: Iterable[str], folder: str = "") -> list[str]:
    """Return which files are shards of a dataset, in order.

    Args:
        files: Names, relative to the gallery.
        folder: Of the dataset, relative to the gallery; "" for its own.
    """
    prefix = f"{folder}/" if folder else ""
    pattern = re.compile(re.escape(prefix) + r"data-[0-9]{5}-of-[0-9]{5}\.arrow")
    return sorted(name for name in files if pattern.fullmatch(name))


def embeddings_file(lens: Lens) -> str:
    """Return the name of a lens's embeddings: float32 (n, dim), unit norm, row i = record i."""
    return f"{lens}.npy"


def index_file(lens: Lens, kind: IndexKind) -> str:
    """Return the name of one FAISS index."""
    return f"{lens}.{kind}.faiss"


REQUIRED_FILES: tuple[str, ...] = (
    DATASET_INFO_FILE,
    DATASET_STATE_FILE,
    *(embeddings_file(lens) for lens in LENSES),
)
"""What the manifest must name beside one shard or more and its indexes; it may name more."""


def index_files(kinds: Iterable[IndexKind]) -> tuple[str, ...]:
    """Return the names of both lenses' indexes, of those kinds that are files."""
    return tuple(index_file(lens, kind) for kind in kinds for lens in LENSES if kind in FAISS_KINDS)


def thumbnail_file(image_id: str) -> str:
    """Return the name of a picture's thumbnail: ``thumbnails/<2 hex digits>/<id>.webp``.

    Args:
        image_id: :attr:`core.records.ImageRecord.id`, 16 hex digits; not checked here.
    """
    return f"{THUMBNAILS_FOLDER}/{image_id[:2]}/{image_id}.webp"


def large_file(image_id: str) -> str:
    """Return the name of a picture's large copy: ``large/<2 hex digits>/<id>.webp``.

    Args:
        image_id: As in :func:`thumbnail_file`.
    """
    return f"{LARGE_FOLDER}/{image_id[:2]}/{image_id}.webp"


def thumbnail_path(folder: Path, image_id: str) -> Path:
    """Return where a picture's thumbnail lies, see :func:`thumbnail_file`.

    Args:
        folder: That holds :data:`THUMBNAILS_FOLDER`.
        image_id: As there.
    """
    return folder / thumbnail_file(image_id)
