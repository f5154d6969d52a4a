"""A gallery on disk, read-only: records, thumbnails, embeddings and indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.gallery_layout import RECORDS_FILE, embeddings_file, index_file
from core.gallery_writer import check_ids, records_schema, write_gallery
from core.index import Index
from core.manifest import Manifest, damaged
from core.picture_set import PictureSet
from core.records import ImageRecord, IndexKind, Lens

if TYPE_CHECKING:
    from core.profiles import Profile

__all__ = ["Gallery", "write_gallery"]


class Gallery(PictureSet):
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
        super().__init__(folder, records, embeddings)
        self.manifest = manifest

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

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.manifest.name

    def _make_index(self, lens: Lens, kind: IndexKind) -> Index:
        path = self.folder / index_file(lens, kind)
        index = Index.load(path, self._ids)
        if index.kind != kind or index.dim != self._embeddings[lens].shape[1]:
            raise damaged(self.folder, f"{path.name} is a {index.kind} index of dim {index.dim}")
        return index


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
