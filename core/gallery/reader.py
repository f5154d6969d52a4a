"""A gallery on disk, read-only: records, thumbnails, embeddings and indexes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.gallery.caption_rows import CaptionRows
from core.gallery.layout import RECORDS_FILE, embeddings_file, index_file
from core.gallery.manifest import Manifest, damaged
from core.gallery.picture_set import PictureSet
from core.gallery.writer import check_ids, records_schema, write_gallery
from core.records import ImageRecord, IndexKind, Lens, record_from
from core.search.index import Index

if TYPE_CHECKING:
    from core.models.profiles import Profile

__all__ = ["Gallery", "write_gallery"]


class Gallery(PictureSet):
    """The pictures of one gallery and what is needed to search them.

    Make one with :meth:`open`. Safe to use from many threads. Arrays and indexes are memory
    maps: replacing the folder on disk does not disturb a gallery that is open.

    Attributes:
        folder: Where it lies, as the operator gave it.
        manifest: What it is made of.
        records: The pictures, in row order.
        caption_rows: Which rows of ``caption_embeddings`` are whose.
        caption_embeddings: Of every caption: float32 (captions, dim), rows of unit norm.
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
        self.caption_rows = CaptionRows.of(self.records)
        self.caption_embeddings = embeddings["captions"]

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
            "captions": _read_embeddings(
                folder, "captions", len(CaptionRows.of(records)), manifest.sentence.dim
            ),
            "clip": _read_embeddings(folder, "clip", len(records), manifest.clip.dim),
        }
        return cls(folder, manifest, records, embeddings)

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.manifest.name

    def embeddings(self, lens: Lens) -> np.ndarray:
        """Return a lens's embeddings, read-only: float32 (n, dim), row i = record i.

        Of several captions it is the mean, whichever way they are indexed.

        Raises:
            QueryError: No such lens.
        """
        return self._caption_means if lens == "captions" else super().embeddings(lens)

    def nearest_captions(self, image_ids: Sequence[str], query: np.ndarray) -> Sequence[int]:
        """Return which of its captions is nearest to a query for each picture, from 0."""
        if self.caption_rows.single or not image_ids:
            return super().nearest_captions(image_ids, query)
        rows = np.array([self.row(image_id) for image_id in image_ids])
        return self.caption_rows.nearest(self.caption_embeddings, rows, query)

    @cached_property
    def _caption_means(self) -> np.ndarray:
        means = self.caption_rows.mean(self.caption_embeddings)
        means.setflags(write=False)
        return means

    def _make_index(self, lens: Lens, kind: IndexKind) -> Index:
        path = self.folder / index_file(lens, kind)
        best = lens == "captions" and self.manifest.caption_pooling == "best"
        owners = None if self.caption_rows.single or not best else self.caption_rows.owners
        index = Index.load(path, self._ids, owners=owners)
        if index.kind != kind or index.dim != self._embeddings[lens].shape[1]:
            raise damaged(self.folder, f"{path.name} is a {index.kind} index of dim {index.dim}")
        return index


def _read_records(folder: Path) -> tuple[ImageRecord, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / RECORDS_FILE, schema=records_schema())
        records = tuple(record_from(row) for row in table.to_pylist())
        check_ids(records)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{RECORDS_FILE} is not a table of pictures ({error})") from error
    return records


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
