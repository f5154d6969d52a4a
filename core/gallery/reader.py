"""A gallery on disk, read-only: records, pictures, embeddings and indexes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.config import get_settings
from core.errors import UnknownImageError
from core.gallery.folder import GalleryFolder
from core.gallery.index_files import IndexFile, collection_of, needs_file, offered_kinds, read_index
from core.gallery.manifest import Manifest, read_manifest
from core.gallery.parts import (
    Pictures,
    check_files,
    is_mapped,
    read_embeddings,
    read_pictures,
)
from core.gallery.picture_set import PictureSet, sampled_rows
from core.mapped import let_go, read_rows
from core.records import IndexKind, Lens
from core.search.bm25.picture_text import TextHit, TextIndex
from core.search.engines.protocol import VectorIndex
from core.search.fusion import Spread
from core.search.index import Index
from core.search.query_language.filters import allowed_rows
from core.search.query_language.parse import ParsedQuery

if TYPE_CHECKING:
    from core.models.profiles import Profile

_SCORED_OF_A_BLOCK = 4
"""A sample of best captions is scored for every query, so it is smaller."""


class Gallery(PictureSet):
    """The pictures of one gallery and what is needed to search them.

    Make one with :meth:`open`. Safe to use from many threads. A gallery of up to
    ``TWOLENS_VERIFY_UP_TO_BYTES`` is read into this process's memory, but for its pictures, and
    verified whole; a larger one is mapped. Either way the files are those of the folder that was
    opened, and stay open: replacing it on disk neither disturbs a search nor mixes two builds.

    Attributes:
        folder: Where it lies, as the operator gave it.
        manifest: What it is made of.
        manifest_sha256: Of the manifest's file; binds figures to this build.
        records: The pictures, in row order.
        has_references: Whether people's captions came with the pictures.
        caption_rows: Which rows of ``caption_embeddings`` are whose.
        caption_embeddings: Of every caption: float32 (captions, dim), rows of unit norm.
    """

    def __init__(
        self,
        held: GalleryFolder,
        manifest: tuple[Manifest, str],
        pictures: Pictures,
        embeddings: Mapping[Lens, np.ndarray],
        indexes: Mapping[tuple[Lens, IndexKind], IndexFile],
        kinds: tuple[IndexKind, ...],
    ) -> None:
        """Hold parts that were checked; see :meth:`open`.

        Args:
            held: The folder.
            manifest: And the sha256 of its bytes.
            pictures: Records, thumbnails and large copies.
            embeddings: Of every caption, and of every picture.
            indexes: Of each lens and kind that is a file.
            kinds: That it may be searched by, the best first.
        """
        super().__init__(held.path, pictures.records, pictures.ids, embeddings)
        self.manifest, self.manifest_sha256 = manifest
        self.caption_rows = pictures.caption_rows
        self.has_references = pictures.has_references
        self._texts = pictures.records.texts_in_pictures
        self.caption_embeddings = embeddings["captions"]
        self._held = held
        self._index_files = indexes
        self._kinds = kinds
        self._thumbnails = pictures.thumbnails
        self._large = pictures.large

    @classmethod
    def open(
        cls, folder: Path, profile: Profile | None, *, verify_up_to: int | None = None
    ) -> Gallery:
        """Check a gallery against its manifest and the models that will search it, and open it.

        Args:
            folder: Where it lies.
            profile: The models that will search it; None for a job that only looks at its files.
            verify_up_to: Bytes up to which it is verified whole; of a larger one the sizes of
                all files, all ids and a sample of the rows are checked. None stands for the
                setting.

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
        if profile is not None:
            manifest.check_models(folder, profile)
        kinds = offered_kinds(folder, manifest, "faiss" if profile is None else None)
        if verify_up_to is None:
            verify_up_to = get_settings().verify_up_to_bytes
        mapped = is_mapped(manifest, verify_up_to)
        check_files(held, manifest, mapped=mapped, read=True)
        pictures = read_pictures(held, manifest, mapped=mapped)
        captions, images = len(pictures.caption_rows), len(pictures.records)
        indexed = captions if manifest.caption_pooling == "best" else images
        embeddings: dict[Lens, np.ndarray] = {}
        indexes: dict[tuple[Lens, IndexKind], IndexFile] = {}
        needed: tuple[tuple[Lens, int, int], ...] = (
            ("captions", captions, indexed),
            ("clip", images, images),
        )
        for lens, count, points in needed:
            rows = read_embeddings(held, manifest, lens, count, mapped=mapped)
            dim = rows.shape[1]
            # A flat index needs no file: that holds the embeddings once more, for other programs.
            for entry in (each for each in manifest.indexes_of(lens) if needs_file(each.kind)):
                indexes[lens, entry.kind] = read_index(
                    held, manifest, lens, entry, (points, dim), mapped=mapped
                )
            embeddings[lens] = rows
        described = manifest, hashlib.sha256(content).hexdigest()
        return cls(held, described, pictures, embeddings, indexes, kinds)

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.manifest.name

    @property
    def index_kinds(self) -> tuple[IndexKind, ...]:
        """The kinds of index that it has, the best first."""
        return self._kinds

    def is_in_place(self) -> bool:
        """Tell whether this is still the gallery in its folder, or was replaced or removed."""
        return self._held.is_in_place()

    def read_thumbnail(self, image_id: str) -> bytes:
        """Return a picture's thumbnail: webp.

        Raises:
            UnknownImageError: No such id.
            CorruptGalleryError: What lies in its place is no picture.
            GalleryError: It cannot be read.
        """
        return self._thumbnails.image(self.row(image_id))

    @cached_property
    def text_index(self) -> TextIndex:
        """Ranks the pictures by the text in them; made when somebody first asks for it."""
        return TextIndex(self._texts())

    def text_hits(self, query: ParsedQuery, k: int) -> list[TextHit]:
        """Return the pictures whose text is nearly a query's, best first, if its filters let them.

        Args:
            query: Its filters too.
            k: Hits wanted.
        """
        among = allowed_rows(self, query.filters)
        allowed = None if among is None else (lambda image_id: bool(among[self.row(image_id)]))
        return self.text_index.search(query, k, allowed)

    def has_large(self, image_id: str) -> bool:
        """Tell whether a large copy of a picture is kept."""
        return self._large is not None and image_id in self._large

    def read_large(self, image_id: str) -> bytes:
        """Return a picture's large copy: webp. It is verified now, not when the gallery opens.

        Raises:
            UnknownImageError: None is kept.
            CorruptGalleryError: It is not the one that was built.
            GalleryError: It cannot be read.
        """
        content = None if self._large is None else self._large.read(image_id)
        if content is None:
            raise UnknownImageError(image_id)
        return content

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
        return self._best_scores(query, rows)

    def all_scores(self, lens: Lens, query: np.ndarray) -> np.ndarray:
        """Return the scores of all pictures, by the best caption where all are indexed."""
        if not self._best_caption_counts(lens):
            return super().all_scores(lens, query)
        return self._best_scores(query)

    def spread(self, lens: Lens, query: np.ndarray) -> Spread:
        """Return how the scores of all pictures lie for a query."""
        if not self._best_caption_counts(lens):
            return super().spread(lens, query)
        scores = self._best_scores(query, sampled_rows(len(self), _SCORED_OF_A_BLOCK))
        return Spread(float(scores.mean()), float(scores.std()))

    def _best_caption_counts(self, lens: Lens) -> bool:
        pooled = self.manifest.caption_pooling == "best" and not self.caption_rows.single
        return lens == "captions" and pooled

    def _best_scores(self, query: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
        """Return the best caption's score of some pictures, or all: float32."""
        if images is None:
            scores, first = self.caption_embeddings @ query, self.caption_rows.first[:-1]
            let_go(self.caption_embeddings)
        elif not len(images):
            return np.zeros(0, np.float32)
        else:
            rows, first = self.caption_rows.rows_of(images)
            scores = read_rows(self.caption_embeddings, rows) @ query
        best: np.ndarray = np.maximum.reduceat(scores, first)
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

    def indexed_vectors(self, lens: Lens) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what a lens's indexes hold, and the picture of each row if it is not its own."""
        if lens == "captions" and self.manifest.caption_pooling == "best":
            return self.caption_rows.indexed(self.caption_embeddings, "best")
        return self.embeddings(lens), None

    def _make_index(self, lens: Lens, kind: IndexKind) -> VectorIndex:
        if kind == "milvus":
            return collection_of(self.manifest, lens)
        vectors, owners = self.indexed_vectors(lens)
        if kind == "flat":
            return Index(vectors, self.ids, owners)
        return self._index_files[lens, kind].opened(vectors, self.ids, owners)
