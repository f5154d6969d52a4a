"""Names of the files of a gallery, in one place."""

from __future__ import annotations

from pathlib import Path

from core.records import INDEX_PAIR, LENSES, IndexKind, Lens

MANIFEST_FILE = "manifest.json"
"""Written last: a folder without it is not a gallery."""

RECORDS_FILE = "records.parquet"
"""One row for each picture; its order is the row order of every array and index."""

THUMBNAILS_FOLDER = "thumbnails"

LARGE_FOLDER = "large"

LARGE_FILE = "large.json"
"""Of a gallery that keeps large pictures: the sha256 of each, by the picture's id."""


def embeddings_file(lens: Lens) -> str:
    """Return the name of a lens's embeddings: float32 (n, dim), unit norm, row i = record i."""
    return f"{lens}.npy"


def index_file(lens: Lens, kind: IndexKind) -> str:
    """Return the name of one FAISS index."""
    return f"{lens}.{kind}.faiss"


REQUIRED_FILES: tuple[str, ...] = (
    RECORDS_FILE,
    *(embeddings_file(lens) for lens in LENSES),
    *(index_file(lens, kind) for lens in LENSES for kind in INDEX_PAIR),
)
"""What the manifest must name beside the thumbnails; it may name more."""


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
        folder: The gallery's folder.
        image_id: As there.
    """
    return folder / thumbnail_file(image_id)
