"""A gallery on disk, read-only: records, thumbnails, embeddings and indexes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import QueryError, UnknownImageError
from core.gallery_layout import RECORDS_FILE, embeddings_file, index_file, thumbnail_path
from core.gallery_writer import check_ids, records_schema, write_gallery
from core.index import Index, check_index_kind
from core.manifest import Manifest, damaged
from core.records import LENSES, ImageRecord, IndexKind, Lens

if TYPE_CHECKING:
    from core.profiles import Profile

__all__ = ["Gallery", "check_lens", "write_gallery"]


class Gallery:
    """The pictures of one gallery and what is needed to search them.

    Make one with :meth:`open`. Safe to use from many threads. Arrays and indexes are memory
    maps: replacing the folder on disk does not disturb a gallery that is open.

    Attributes:
        folder: Where it lies, as the operator gave it.
        manifest: What it is made of.
        records: The pictures, in row order.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        records: Sequence[ImageRecord],
        embeddings: dict[Lens, np.ndarray],
    ) -> None:
        """Hold verified parts; see :meth:`open`."""
        self.folder = folder
        self.manifest = manifest
        self.records = records
        self._embeddings = embeddings
        self._ids = tuple(record.id for record in records)
        self._rows = {image_id: row for row, image_id in enumerate(self._ids)}
        self._indexes: dict[tuple[Lens, IndexKind], Index] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path, profile: Profile) -> Gallery:
        """Verify a gallery against its manifest and the models that will search it, and open it.

        Raises:
            GalleryNotFoundError: No such folder.
            IncompleteGalleryError: No manifest in it.
            CorruptGalleryError: A file is missing, or not the one that was built.
            ManifestMismatchError: Built by other models, or in another format.
        """
        manifest = Manifest.read(folder)
        manifest.verify(folder, profile)
        records = _read_records(folder)
        if len(records) != manifest.counts.images:
            raise damaged(
                folder,
                f"{RECORDS_FILE} has {len(records)} rows, "
                f"the manifest says {manifest.counts.images}",
            )
        embeddings: dict[Lens, np.ndarray] = {
            "captions": _read_embeddings(folder, "captions", len(records), manifest.sentence.dim),
            "clip": _read_embeddings(folder, "clip", len(records), manifest.clip.dim),
        }
        return cls(folder, manifest, records, embeddings)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.records)

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.manifest.name

    def record(self, image_id: str) -> ImageRecord:
        """Return one picture's record.

        Raises:
            UnknownImageError: No such id.
        """
        return self.records[self._row(image_id)]

    def thumbnail(self, image_id: str) -> Path:
        """Return the path of a picture's webp thumbnail, never built from an unknown id.

        Raises:
            UnknownImageError: No such id.
        """
        self._row(image_id)
        return thumbnail_path(self.folder, image_id)

    def embedding(self, lens: Lens, image_id: str) -> np.ndarray:
        """Return a read-only view of one embedding: float32 (dim,), unit norm.

        Raises:
            UnknownImageError: No such id.
            QueryError: No such lens.
        """
        check_lens(lens)
        return self._embeddings[lens][self._row(image_id)]

    def embeddings(self, lens: Lens) -> np.ndarray:
        """Return a lens's embeddings, read-only: float32 (n, dim), row i = record i.

        Raises:
            QueryError: No such lens.
        """
        check_lens(lens)
        return self._embeddings[lens]

    def index(self, lens: Lens, kind: IndexKind) -> Index:
        """Return an index, opened on first use.

        Raises:
            QueryError: No such lens or kind.
            CorruptGalleryError: Its file does not fit the records.
        """
        check_lens(lens)
        check_index_kind(kind)
        with self._lock:
            if (lens, kind) not in self._indexes:
                path = self.folder / index_file(lens, kind)
                index = Index.load(path, self._ids)
                if index.kind != kind or index.dim != self._embeddings[lens].shape[1]:
                    raise damaged(
                        self.folder, f"{path.name} is a {index.kind} index of dim {index.dim}"
                    )
                self._indexes[lens, kind] = index
            return self._indexes[lens, kind]

    def _row(self, image_id: str) -> int:
        try:
            return self._rows[image_id]
        except (KeyError, TypeError):
            raise UnknownImageError(str(image_id)) from None


def check_lens(lens: str) -> None:
    """Raise QueryError unless ``lens`` is one of :data:`core.records.LENSES`."""
    if lens not in LENSES:
        raise QueryError(f"Lens must be one of {', '.join(LENSES)}; got {str(lens)[:40]!r}.")


def _read_records(folder: Path) -> tuple[ImageRecord, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / RECORDS_FILE, schema=records_schema())
        records = tuple(_record(row) for row in table.to_pylist())
        check_ids(records)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{RECORDS_FILE} is not a table of pictures ({error})") from error
    return records


def _record(row: dict[str, Any]) -> ImageRecord:
    values = {field.name: row[field.name] for field in fields(ImageRecord)}
    values["caption_flags"] = tuple(values["caption_flags"])
    values["references"] = tuple(values["references"])
    return ImageRecord(**values)


def _read_embeddings(folder: Path, lens: Lens, count: int, dim: int | None) -> np.ndarray:
    path = folder / embeddings_file(lens)
    try:
        # An array without elements cannot be mapped.
        array = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise damaged(folder, f"{path.name} is not an array ({error})") from error
    if array.dtype != np.float32 or array.shape != (count, dim):
        raise damaged(
            folder,
            f"{path.name} is {array.dtype} {array.shape}, float32 {(count, dim)} is needed",
        )
    array.setflags(write=False)
    return array
