"""Filling a gallery folder: records, embeddings, indexes, and the manifest last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from core.errors import EmbeddingError, IncompleteGalleryError
from core.files import fsync, sha256_of
from core.gallery.caption_rows import CaptionRows
from core.gallery.folder import GalleryFolder
from core.gallery.layout import (
    MANIFEST_FILE,
    RECORDS_FILE,
    REQUIRED_FILES,
    embeddings_file,
    index_file,
    thumbnail_path,
)
from core.gallery.manifest import Counts, Manifest, ModelRef, SourceRef, now
from core.gallery.table import check_ids, write_records
from core.records import INDEX_PAIR, CaptionPooling, ImageRecord, Lens
from core.search.index import Index, check_embeddings

if TYPE_CHECKING:
    from core.models.profiles import Profile


def write_gallery(
    folder: Path,
    *,
    name: str,
    records: Sequence[ImageRecord],
    caption_embeddings: np.ndarray,
    clip_embeddings: np.ndarray,
    profile: Profile,
    source: SourceRef,
    caption_origin: str = "generated",
    captions_per_image: int = 1,
    caption_pooling: CaptionPooling = "mean",
    text_reader: ModelRef | None = None,
    counts: Counts | None = None,
    created_at: datetime | None = None,
    extra_files: Iterable[str] = (),
) -> Manifest:
    """Turn a folder that holds ``thumbnails/`` into a gallery.

    The same input gives the same bytes in every file (and in the manifest, for the same
    ``created_at``). All is forced to disk before the manifest is written.

    Args:
        folder: An existing folder with a thumbnail for each record
            (:func:`core.gallery.layout.thumbnail_path`). A manifest in it is removed first.
        name: Of the gallery: printable, no slash, at most 100 characters.
        records: n pictures; each id is the first 16 digits of its sha256, none comes twice.
        caption_embeddings: float32 (captions, profile.sentence.dim), rows of unit norm, in the
            order of :class:`core.gallery.caption_rows.CaptionRows`: (n, dim) for one caption each.
        clip_embeddings: float32 (n, profile.clip.dim), likewise.
        profile: The models that made captions and embeddings.
        source: Where the pictures came from.
        caption_origin: ``generated``, or ``column:NAME``, which leaves out the captioner.
        captions_per_image: Most captions that were asked for.
        caption_pooling: How several captions of an image are indexed.
        text_reader: What read the text in the pictures; None if it was not looked for.
        counts: What became of the source's files; None stands for n images and no others.
        created_at: For the manifest; None stands for now.
        extra_files: Names, relative to the folder, of files already there that the manifest
            shall cover too, e.g. ``build_report.json``.

    Returns:
        The manifest as written.

    Raises:
        EmbeddingError: Embeddings of another shape, not finite, or not of unit norm.
        ModelNotFoundError: A model of the profile is not there, so has no revision.
        OSError: A file could not be written.
        IncompleteGalleryError: A thumbnail or an extra file is missing.
        ValueError: Ids that do not fit, or counts that disagree with the records.
    """
    counts = counts or Counts(images=len(records))
    if counts.images != len(records):
        raise ValueError(f"counts.images is {counts.images} for {len(records)} records")
    check_ids(records)
    rows = CaptionRows.of(records)
    embeddings: dict[Lens, np.ndarray] = {
        "captions": _checked("caption", caption_embeddings, len(rows), profile.sentence.dim),
        "clip": _checked("CLIP", clip_embeddings, len(records), profile.clip.dim),
    }
    captioner = ModelRef.of(profile.captioner) if caption_origin == "generated" else None
    sentence, clip = ModelRef.of(profile.sentence), ModelRef.of(profile.clip)
    extra = tuple(extra_files)
    _check_present(folder, [thumbnail_path(folder, record.id) for record in records])
    _check_present(folder, [folder / file for file in extra])

    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    write_records(folder / RECORDS_FILE, records)
    ids = tuple(record.id for record in records)
    for lens, vectors in embeddings.items():
        write_array(folder / embeddings_file(lens), vectors)
        indexed, owners = vectors, None
        if lens == "captions":
            indexed, owners = rows.indexed(vectors, caption_pooling)
        for kind in INDEX_PAIR:
            Index.build(indexed, ids, kind, owners).save(folder / index_file(lens, kind))
    _, digest = GalleryFolder(folder).thumbnails_digest(ids)
    manifest = Manifest(
        name=name,
        created_at=created_at or now(),
        source=source,
        profile=profile.name,
        captioner=captioner,
        sentence=sentence,
        clip=clip,
        caption_origin=caption_origin,
        captions_per_image=captions_per_image,
        caption_pooling=caption_pooling,
        text_reader=text_reader,
        counts=counts,
        thumbnails_sha256=digest,
        files={file: sha256_of(folder / file) for file in sorted({*REQUIRED_FILES, *extra})},
    )
    fsync(folder)
    return manifest.write(folder)


def write_array(path: Path, vectors: np.ndarray) -> None:
    """Write an array as ``.npy``, onto the disk; an error keeps its number."""
    with path.open("wb") as file:
        # By its write() alone: numpy's own way of writing to a file loses the number of an error.
        np.save(SimpleNamespace(write=file.write), vectors, allow_pickle=False)
    fsync(path)


def _checked(what: str, embeddings: np.ndarray, needed: int, dim: int | None) -> np.ndarray:
    try:
        vectors = check_embeddings(embeddings, dim)
    except EmbeddingError as error:
        raise EmbeddingError(f"The {what} embeddings cannot be used: {error}") from error
    if len(vectors) != needed:
        raise EmbeddingError(
            f"The {what} embeddings have {len(vectors)} rows; the records need {needed}."
        )
    return vectors


def _check_present(folder: Path, paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise IncompleteGalleryError(
            folder,
            f"{len(missing)} of {len(paths)} files are missing in {folder.name}, "
            f"the first is {missing[0].relative_to(folder).as_posix()}.",
        )
