"""A gallery on disk, read-only: records, thumbnails, embeddings and indexes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import EmbeddingError, UnknownImageError
from core.gallery.caption_rows import CaptionRows
from core.gallery.folder import GalleryFolder, damaged
from core.gallery.layout import (
    LARGE_FILE,
    LARGE_FOLDER,
    RECORDS_FILE,
    embeddings_file,
    index_file,
    large_file,
    thumbnail_file,
)
from core.gallery.manifest import Manifest, read_manifest
from core.gallery.picture_set import PictureSet
from core.gallery.table import read_records
from core.records import LENSES, ImageRecord, IndexKind, Lens
from core.search.engines.files import Clusters, read_clusters
from core.search.fusion import Spread
from core.search.index import Index, check_embeddings

if TYPE_CHECKING:
    from core.models.profiles import Profile

_READ_WHOLE = {
    RECORDS_FILE,
    LARGE_FILE,
    *(embeddings_file(lens) for lens in LENSES),
    *(index_file(lens, "ivf") for lens in LENSES),
}
"""The flat indexes hold the embeddings once more, for other programs; nothing reads them here."""
_MOST_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Parts:
    """What was read of a gallery, verified.

    Attributes:
        manifest: What it is made of.
        manifest_sha256: Of the manifest's bytes.
        records: The pictures, in row order.
        embeddings: Of every caption, and of every picture.
        clusters: Of each lens's IVF index.
        large: sha256 of each large picture by its id.
    """

    manifest: Manifest
    manifest_sha256: str
    records: Sequence[ImageRecord]
    embeddings: Mapping[Lens, np.ndarray]
    clusters: Mapping[Lens, Clusters]
    large: Mapping[str, str]


class Gallery(PictureSet):
    """The pictures of one gallery and what is needed to search them.

    Make one with :meth:`open`. Safe to use from many threads. All but the thumbnails is in this
    process's memory, and they are read from the folder that was opened: replacing it on disk, or
    changing a file in it, neither disturbs a search nor mixes two builds.

    Attributes:
        folder: Where it lies, as the operator gave it.
        manifest: What it is made of.
        manifest_sha256: Of the manifest's file; binds figures to this build.
        records: The pictures, in row order.
        caption_rows: Which rows of ``caption_embeddings`` are whose.
        caption_embeddings: Of every caption: float32 (captions, dim), rows of unit norm.
    """

    def __init__(self, folder: GalleryFolder, parts: _Parts) -> None:
        """Hold verified parts; see :meth:`open`."""
        super().__init__(folder.path, parts.records, parts.embeddings)
        self.manifest = parts.manifest
        self.manifest_sha256 = parts.manifest_sha256
        self.caption_rows = CaptionRows.of(self.records)
        self.caption_embeddings = parts.embeddings["captions"]
        self._held = folder
        self._clusters = parts.clusters
        self._large = parts.large

    @classmethod
    def open(cls, folder: Path, profile: Profile) -> Gallery:
        """Verify a gallery against its manifest and the models that will search it, and open it.

        Every file in it that the manifest covers is read once.

        Raises:
            GalleryNotFoundError: No such folder.
            IncompleteGalleryError: No manifest in it.
            CorruptGalleryError: A file is missing, or not the one that was built.
            ManifestMismatchError: Built by other models, or in another format.
            GalleryError: A file cannot be read.
            ModelNotFoundError: The profile's own models are not there.
        """
        held = GalleryFolder(folder)
        content = read_manifest(held)
        manifest = Manifest.parse(folder, content)
        manifest.check_models(folder, profile)
        records = verified_records(held, manifest, unread=_READ_WHOLE)
        captions = len(CaptionRows.of(records))
        indexed = captions if manifest.caption_pooling == "best" else len(records)
        embeddings: dict[Lens, np.ndarray] = {}
        clusters: dict[Lens, Clusters] = {}
        needed: tuple[tuple[Lens, int | None, int, int], ...] = (
            ("captions", manifest.sentence.dim, captions, indexed),
            ("clip", manifest.clip.dim, len(records), len(records)),
        )
        for lens, dim, count, points in needed:
            array = held.read_verified(embeddings_file(lens), manifest.files)
            embeddings[lens] = _embeddings_in(array, folder, lens, count, dim)
            index = held.read_verified(index_file(lens, "ivf"), manifest.files)
            clusters[lens] = _clusters_in(index, folder, lens, points, embeddings[lens].shape[1])
        sha256 = hashlib.sha256(content).hexdigest()
        large = _large_in(held, manifest)
        return cls(held, _Parts(manifest, sha256, records, embeddings, clusters, large))

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.manifest.name

    def is_in_place(self) -> bool:
        """Tell whether this is still the gallery in its folder, or was replaced or removed."""
        return self._held.is_in_place()

    def read_thumbnail(self, image_id: str) -> bytes:
        """Return a picture's thumbnail: webp.

        Raises:
            UnknownImageError: No such id, or its thumbnail was deleted, as by a new build.
            GalleryError: It cannot be read.
        """
        self.row(image_id)
        try:
            return self._held.read(thumbnail_file(image_id)).tobytes()
        except FileNotFoundError as error:
            raise UnknownImageError(image_id) from error

    def has_large(self, image_id: str) -> bool:
        """Tell whether a large copy of a picture is kept."""
        return image_id in self._large

    def read_large(self, image_id: str) -> bytes:
        """Return a picture's large copy: webp. It is verified now, not when the gallery opens.

        Raises:
            UnknownImageError: None is kept, or it was deleted.
            CorruptGalleryError: It is not the one that was built.
            GalleryError: It cannot be read.
        """
        if image_id not in self._large:
            raise UnknownImageError(image_id)
        name = large_file(image_id)
        return self._held.read_verified(name, {name: self._large[image_id]}).tobytes()

    def read_beside(self, name: str) -> bytes | None:
        """Return a file that lies in the gallery's folder and is no part of it, or None.

        Raises:
            GalleryError: It cannot be read.
        """
        try:
            return self._held.read(name).tobytes()
        except FileNotFoundError:
            return None

    def embeddings(self, lens: Lens) -> np.ndarray:
        """Return a lens's embeddings, read-only: float32 (n, dim), row i = record i.

        Of several captions it is the mean, whichever way they are indexed.

        Raises:
            QueryError: No such lens.
        """
        return self._caption_means if lens == "captions" else super().embeddings(lens)

    def scores(self, lens: Lens, image_ids: Sequence[str], query: np.ndarray) -> np.ndarray:
        """Return the scores of some pictures, by the best caption where all are indexed."""
        if not self._best_caption_counts(lens):
            return super().scores(lens, image_ids, query)
        rows = np.array([self.row(image_id) for image_id in image_ids], dtype=np.int64)
        return self._best_scores(query)[rows]

    def all_scores(self, lens: Lens, query: np.ndarray) -> np.ndarray:
        """Return the scores of all pictures, by the best caption where all are indexed."""
        if not self._best_caption_counts(lens):
            return super().all_scores(lens, query)
        return self._best_scores(query)

    def spread(self, lens: Lens, query: np.ndarray) -> Spread:
        """Return how the scores of all pictures lie for a query."""
        if not self._best_caption_counts(lens):
            return super().spread(lens, query)
        scores = self._best_scores(query)
        return Spread(float(scores.mean()), float(scores.std()))

    def _best_caption_counts(self, lens: Lens) -> bool:
        pooled = self.manifest.caption_pooling == "best" and not self.caption_rows.single
        return lens == "captions" and pooled

    def _best_scores(self, query: np.ndarray) -> np.ndarray:
        scores = self.caption_embeddings @ query
        best: np.ndarray = np.maximum.reduceat(scores, self.caption_rows.first[:-1])
        return best

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
        vectors, owners = self.embeddings(lens), None
        if lens == "captions" and self.manifest.caption_pooling == "best":
            vectors, owners = self.caption_rows.indexed(self.caption_embeddings, "best")
        if kind == "flat":
            return Index.build(vectors, self._ids, kind, owners)
        return Index.restore(self._clusters[lens], vectors, self._ids, owners)


def verified_records(
    held: GalleryFolder, manifest: Manifest, unread: Container[str] = ()
) -> tuple[ImageRecord, ...]:
    """Check that a gallery's files are those that were built, whichever models built it.

    Args:
        held: Its folder.
        manifest: As parsed from there.
        unread: Files that the caller checks itself.

    Returns:
        The pictures, in row order.

    Raises:
        CorruptGalleryError: A file is missing, or not the one that was built.
        GalleryError: A file cannot be read.
    """
    for name, sha256 in manifest.files.items():
        if name not in unread:
            held.verify(name, sha256)
    records = read_records(held.path, held.read_verified(RECORDS_FILE, manifest.files))
    if len(records) != manifest.counts.images:
        raise damaged(
            held.path,
            f"{RECORDS_FILE} has {len(records)} rows, the manifest says {manifest.counts.images}",
        )
    count, digest = held.thumbnails_digest(record.id for record in records)
    if digest != manifest.thumbnails_sha256:
        raise damaged(
            held.path,
            f"the thumbnails are not the ones that were built "
            f"({count} there, {manifest.counts.images} built)",
        )
    return records


def _large_in(held: GalleryFolder, manifest: Manifest) -> Mapping[str, str]:
    if LARGE_FILE not in manifest.files or not held.has_folder(LARGE_FOLDER):
        return {}  # a copy from the Hub comes without them
    content = held.read_verified(LARGE_FILE, manifest.files)
    try:
        found = json.loads(content.tobytes())
        return {str(image_id): str(sha256) for image_id, sha256 in found.items()}
    except (ValueError, AttributeError) as error:
        raise damaged(held.path, f"{LARGE_FILE} is not a table of pictures") from error


def _embeddings_in(
    content: np.ndarray, folder: Path, lens: Lens, count: int, dim: int | None
) -> np.ndarray:
    """Return the array that a file's bytes hold, without a copy."""
    name = embeddings_file(lens)
    header = io.BytesIO(content[:_MOST_HEADER_BYTES].tobytes())
    try:
        version = np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0
        shape, by_column, dtype = read(header) if version == (1, 0) else (None, False, None)
    except (ValueError, EOFError) as error:
        raise damaged(folder, f"{name} is not an array ({error})") from error
    if dtype is not None and dtype.hasobject:
        raise damaged(folder, f"{name} is not an array of numbers (it holds Python objects)")
    start = header.tell()
    if by_column:
        raise damaged(folder, f"{name} is stored by column, not by row")
    if (dtype, shape) != (np.float32, (count, dim)):
        raise damaged(folder, f"{name} is {dtype} {shape}, float32 {(count, dim)} is needed")
    if content.size - start != 4 * count * (dim or 0):
        raise damaged(folder, f"{name} is not as long as its {count} rows")
    try:
        array = check_embeddings(content[start:].view(np.float32).reshape(count, dim or 0))
    except EmbeddingError as error:
        raise damaged(folder, f"{name} cannot be searched: {error}") from error
    array.setflags(write=False)
    return array


def _clusters_in(content: np.ndarray, folder: Path, lens: Lens, count: int, dim: int) -> Clusters:
    try:
        return read_clusters(content, count, dim)
    except ValueError as error:
        name = index_file(lens, "ivf")
        raise damaged(folder, f"{name} is not an index of its embeddings ({error})") from error
