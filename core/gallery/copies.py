"""The copies of a picture that are kept: a thumbnail, and one for the large view; the cover."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import GalleryError
from core.gallery.dataset.reading import open_dataset
from core.gallery.folder import GalleryFolder
from core.gallery.layout import large_file, shards_of, thumbnail_path
from core.gallery.manifest import Manifest, read_manifest
from core.images.decode import DecodedImage, DecodeLimits, decode
from core.images.thumbnails import large_webp, thumbnail_webp

if TYPE_CHECKING:
    import threading


@dataclass(frozen=True, slots=True)
class CopySizes:
    """How large the copies are.

    Attributes:
        thumbnail_px: Longer side of the thumbnail.
        large_px: Longer side of the one for the large view, which a picture has that is larger
            than its thumbnail; None keeps none.
    """

    thumbnail_px: int = 320
    large_px: int | None = 1280


@dataclass(frozen=True, slots=True)
class Copies:
    """What is kept of a picture's pixels: webp, the large one only where it shows more."""

    thumbnail: bytes
    large: bytes | None = None

    @classmethod
    def of(
        cls,
        source: Path | bytes,
        file_name: str,
        limits: DecodeLimits,
        decoded: DecodedImage,
        sizes: CopySizes,
        stop: threading.Event | None = None,
    ) -> Copies:
        """Make the copies of a picture, decoding it again if the large one needs more pixels.

        Models always see what :func:`core.images.decode.decode` gives, so that keeping large
        copies changes no embedding.

        Args:
            source: As it was decoded; so are the next two.
            file_name: For the error.
            limits: What to refuse.
            decoded: What came of it.
            sizes: Of the copies.
            stop: Ends the work when it is set.

        Raises:
            ImageError: As by ``decode``.
            DecodingStoppedError: Likewise.
        """
        thumbnail = thumbnail_webp(decoded.image, sizes.thumbnail_px)
        longer = max(decoded.width, decoded.height)
        if sizes.large_px is None or longer <= sizes.thumbnail_px:
            return cls(thumbnail)
        image = decoded.image
        if max(image.size) < min(sizes.large_px, longer):
            image = decode(source, file_name, limits, sizes.large_px, stop).image
        return cls(thumbnail, large_webp(image, sizes.large_px))

    def write(self, folder: Path, image_id: str, *, sync: bool = False, mode: int = 0o777) -> None:
        """Write the files.

        Args:
            folder: Of the gallery or the upload.
            image_id: Of the picture.
            sync: Whether to force them to disk.
            mode: Of folders that are made.
        """
        contents = {thumbnail_path(folder, image_id): self.thumbnail}
        if self.large is not None:
            contents[folder / large_file(image_id)] = self.large
        for path, content in contents.items():
            path.parent.mkdir(mode=mode, parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())


def copy_folders(folder: Path, image_ids: Iterable[str]) -> set[Path]:
    """Return the folders that hold the copies of some pictures."""
    ids = tuple(image_ids)
    found = {thumbnail_path(folder, image_id).parent for image_id in ids}
    found |= {(folder / large_file(image_id)).parent for image_id in ids}
    return {path for path in found if path.is_dir()}


def delete_copies(folder: Path, image_id: str) -> None:
    """Delete a picture's copies, if they are there."""
    thumbnail_path(folder, image_id).unlink(missing_ok=True)
    (folder / large_file(image_id)).unlink(missing_ok=True)


class CopiesFolder:
    """The copies of pictures as files of a folder: an upload's, or those of a build under way.

    Args:
        folder: Where :meth:`Copies.write` wrote them.
        with_large: Whether the large ones count.
    """

    def __init__(self, folder: Path, *, with_large: bool = True) -> None:
        """Hold the folder."""
        self._folder, self._with_large = folder, with_large

    def thumbnail(self, image_id: str) -> bytes:
        """Return a picture's thumbnail; raises FileNotFoundError if there is none."""
        return thumbnail_path(self._folder, image_id).read_bytes()

    def large(self, image_id: str) -> bytes | None:
        """Return a picture's large copy; None if none is kept."""
        path = self._folder / large_file(image_id)
        return path.read_bytes() if self._with_large and path.is_file() else None


def cover_of(folder: Path) -> bytes | None:
    """Return the thumbnail of a gallery's first picture: webp; None if it cannot be read.

    It stands for the gallery in a list, and is read without opening the gallery.
    """
    try:
        held = GalleryFolder(folder)
        files = Manifest.parse(folder, read_manifest(held)).files
        pictures = open_dataset(held, files, shards_of(files)[:1], mapped=True)
        return pictures.image(0) if len(pictures) else None
    except (GalleryError, OSError):
        return None
