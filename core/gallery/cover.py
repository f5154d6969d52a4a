"""The picture that stands for a gallery in a list, read without opening the gallery."""

from __future__ import annotations

from pathlib import Path

from core.errors import GalleryError
from core.gallery.dataset.reading import open_dataset
from core.gallery.folder import GalleryFolder
from core.gallery.layout import shards_of
from core.gallery.manifest import Manifest, read_manifest


def cover_of(folder: Path) -> bytes | None:
    """Return the thumbnail of a gallery's first picture: webp; None if it cannot be read."""
    try:
        held = GalleryFolder(folder)
        files = Manifest.parse(folder, read_manifest(held)).files
        pictures = open_dataset(held, files, shards_of(files)[:1], mapped=True)
        return pictures.image(0) if len(pictures) else None
    except (GalleryError, OSError):
        return None
