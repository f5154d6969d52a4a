"""The indexes of a gallery on disk: built and measured, checked, and opened when searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.config import IndexBackend, get_settings
from core.errors import CorruptGalleryError, GalleryError, QueryError
from core.gallery.folder import GalleryFolder, HeldFile, damaged
from core.gallery.layout import embeddings_file, index_file
from core.gallery.manifest import Manifest
from core.records import FAISS_KINDS, IndexKind, Lens
from core.search.engines.approximate import Approximate
from core.search.engines.entry import IndexEntry
from core.search.engines.files import Clusters, check_index, read_clusters
from core.search.engines.milvus import MilvusIndex, MilvusPlace
from core.search.engines.training import measured, trained_for_gallery
from core.search.engines.writing import write_filled, write_flat
from core.search.index import Index


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One index of a gallery, opened when it is first searched.

    Attributes:
        entry: What the manifest says of it.
        lens: Whose.
        clusters: Of an ``ivf`` that was read and checked.
        file: Of any other; checked, and mapped, when it is opened.
    """

    entry: IndexEntry
    lens: Lens
    clusters: Clusters | None = None
    file: HeldFile | None = None

    def opened(self, vectors: np.ndarray, ids: Sequence[str], owners: np.ndarray | None) -> Index:
        """Return the index over embeddings that were checked.

        Raises:
            CorruptGalleryError: The file is no such index of these embeddings.
        """
        if self.clusters is not None:
            return Index.restore(self.clusters, vectors, ids, owners, self.entry.effort)
        if self.file is None:
            raise ValueError(f"{self.entry.kind} has no file")
        try:
            check_index(self.file.map(), self.entry.kind, *vectors.shape)
        except ValueError as error:
            raise _unlike(self.file.folder, self.file.name, error) from error
        self.file.release()  # the check looked into every cluster, a search looks into some
        mapped = Approximate.mapped(self.entry.kind, self.file.path, self.entry.effort)
        return Index(vectors, ids, owners, mapped)


def read_index(
    held: GalleryFolder,
    manifest: Manifest,
    lens: Lens,
    entry: IndexEntry,
    shape: tuple[int, int],
    *,
    mapped: bool,
) -> IndexFile:
    """Find one index of a gallery.

    Args:
        held: The gallery's folder.
        manifest: As parsed from there.
        lens: Whose.
        entry: Of the manifest.
        shape: Number and length of the vectors that it must hold.
        mapped: Whether the gallery is; else the file is verified, and an ``ivf`` read.

    Raises:
        CorruptGalleryError: It is missing, not the one that was built, or does not fit.
        GalleryError: It cannot be read.
    """
    name = index_file(lens, entry.kind)
    ref = manifest.files[name]
    if mapped:
        return IndexFile(entry, lens, file=held.held(name, ref.bytes))
    if entry.kind != "ivf":
        held.verify(name, ref)
        return IndexFile(entry, lens, file=held.held(name, ref.bytes))
    try:
        return IndexFile(entry, lens, read_clusters(held.read_verified(name, ref), *shape))
    except ValueError as error:
        raise _unlike(held.path, name, error) from error


def _unlike(folder: Path, name: str, error: ValueError) -> CorruptGalleryError:
    return damaged(folder, f"{name} is not an index of its embeddings ({error})")


def write_indexes(
    folder: Path,
    lens: Lens,
    vectors: np.ndarray,
    kinds: Sequence[IndexKind],
    texts: Sequence[np.ndarray] = (),
    say: Callable[[str], None] = lambda text: None,
) -> tuple[tuple[IndexEntry, ...], tuple[str, ...]]:
    """Build, write and measure the indexes of one lens.

    Vectors that are mapped stay so: of all kinds but ``hnsw`` a part at a time is in memory.

    Args:
        folder: Of the gallery.
        lens: Whose embeddings.
        vectors: What is indexed: float32 (n, dim), rows of unit norm.
        kinds: Of index, the best first.
        texts: See :func:`core.search.engines.training.measured`.
        say: Receives messages on progress.

    Returns:
        An entry each for the manifest, and the names of the files.

    Raises:
        OSError: A file could not be written.
    """
    entries, names = [], []
    for kind in kinds:
        name = index_file(lens, kind)
        if kind == "flat":
            write_flat(vectors, folder / name)
            entry = IndexEntry(kind=kind, recall=1.0)
        else:
            empty, entry = trained_for_gallery(
                kind, vectors, asked_by_texts=bool(texts), folder=folder
            )
            say(f"{kind}: trained with {entry.trained_on:,} vectors, adding {len(vectors):,} ...")
            write_filled(empty, vectors, folder / name)
            say(f"{kind}: searching at rising effort ...")
            held = GalleryFolder(folder).held(name, (folder / name).stat().st_size)
            entry = measured(entry, Approximate.mapped(kind, held.path), vectors, texts)
        entries.append(entry)
        names.append(name)
    return tuple(entries), tuple(names)


def measured_again(
    folder: Path,
    manifest: Manifest,
    lens: Lens,
    vectors: np.ndarray,
    entry: IndexEntry,
    texts: Sequence[np.ndarray] = (),
) -> IndexEntry:
    """Measure an index of a gallery as it would be today; its file stays as it is.

    Args:
        folder: Of the gallery.
        manifest: Of it.
        lens: Whose.
        vectors: See :func:`write_indexes`.
        entry: What the manifest says of the index.
        texts: See :func:`write_indexes`.

    Returns:
        The entry with what was found; as it was for a kind that has nothing to tune.

    Raises:
        CorruptGalleryError: The file is missing, or no such index of these embeddings.
        GalleryError: It cannot be read.
    """
    if not needs_file(entry.kind):
        return entry
    held = GalleryFolder(folder)
    found = read_index(held, manifest, lens, entry, vectors.shape, mapped=True)
    approximate = found.opened(vectors, (), None).approximate
    return entry if approximate is None else measured(entry, approximate, vectors, texts)


def needs_file(kind: IndexKind) -> bool:
    """Tell whether an index of a kind is read from a file of the gallery; a flat one is not."""
    return kind in FAISS_KINDS and kind != "flat"


def offered_kinds(
    folder: Path, manifest: Manifest, backend: IndexBackend | None
) -> tuple[IndexKind, ...]:
    """Return those kinds of a gallery that it may be searched by, the best first.

    Args:
        folder: Of the gallery.
        manifest: Of the gallery.
        backend: None takes that of the settings.

    Raises:
        GalleryError: There is none.
    """
    settings = get_settings()
    backend, kinds = backend or settings.index_backend, manifest.index_kinds
    if backend == "auto":
        backend = "milvus" if settings.milvus_uri and "milvus" in kinds else "faiss"
    if backend == "milvus" and not settings.milvus_uri:
        raise GalleryError(folder, "TWOLENS_INDEX_BACKEND=milvus needs TWOLENS_MILVUS_URI too.")
    own = tuple(kind for kind in kinds if (kind == "milvus") == (backend == "milvus"))
    if not own:
        raise GalleryError(
            folder,
            f"The gallery {folder.name} has no {backend} index. Give it one with: python -m "
            f"precompute index {folder} --index {'milvus' if backend == 'milvus' else 'auto'}",
        )
    return own


def collection_of(manifest: Manifest, lens: Lens) -> MilvusIndex:
    """Return the collection that holds a lens's vectors; its name says of which embeddings.

    Raises:
        QueryError: TWOLENS_MILVUS_URI is not set.
    """
    settings = get_settings()
    if not settings.milvus_uri:
        raise QueryError("The Milvus index needs TWOLENS_MILVUS_URI.")
    token = settings.milvus_token.get_secret_value()
    place = MilvusPlace(settings.milvus_uri, token, settings.milvus_timeout_s)
    name = f"twolens_{lens}_{manifest.files[embeddings_file(lens)].sha256[:16]}"
    dim = (manifest.sentence if lens == "captions" else manifest.clip).dim
    effort = next((e.effort for e in manifest.indexes_of(lens) if e.kind == "milvus"), None)
    return MilvusIndex(place, name, dim or 0, effort)
