"""Filling a gallery folder: pictures, embeddings, indexes, and the manifest last."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from core.errors import EmbeddingError, IncompleteGalleryError
from core.files import fsync
from core.gallery.caption_rows import CaptionRows
from core.gallery.dataset.records import (
    IMAGE_COLUMN,
    check_ids,
    gallery_schema,
    large_schema,
)
from core.gallery.dataset.writing import write_dataset
from core.gallery.index_files import write_indexes
from core.gallery.layout import (
    LARGE_FOLDER,
    MANIFEST_FILE,
    REQUIRED_FILES,
    embeddings_file,
)
from core.gallery.manifest import Counts, FileRef, Manifest, ModelRef, SourceRef, now
from core.records import CaptionPooling, ImageRecord, IndexKind, Lens
from core.search.engines.entry import IndexEntry
from core.search.engines.training import kinds_for
from core.search.index import check_embeddings

if TYPE_CHECKING:
    from core.models.profiles import Profile


class PictureCopies(Protocol):
    """Where a gallery's pictures come from."""

    def thumbnail(self, image_id: str) -> bytes:
        """Return a picture's thumbnail: webp.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def large(self, image_id: str) -> bytes | None:
        """Return a picture's large copy: webp; None if none is kept."""
        ...


def write_gallery(
    folder: Path,
    *,
    name: str,
    records: Sequence[ImageRecord],
    caption_embeddings: np.ndarray,
    clip_embeddings: np.ndarray,
    copies: PictureCopies,
    profile: Profile,
    source: SourceRef,
    caption_origin: str = "generated",
    captions_per_image: int = 1,
    caption_pooling: CaptionPooling = "mean",
    text_reader: ModelRef | None = None,
    counts: Counts | None = None,
    created_at: datetime | None = None,
    extra_files: Iterable[str] = (),
    indexes: Sequence[IndexKind] = (),
    texts: Mapping[Lens, Sequence[np.ndarray]] | None = None,
) -> Manifest:
    """Fill a folder with a gallery.

    The same input gives the same bytes in every file (and in the manifest, for the same
    ``created_at``). All is forced to disk before the manifest is written. Pictures are read and
    written a batch at a time.

    Args:
        folder: Existing. A gallery in it is replaced, its manifest removed first.
        name: Of the gallery: printable, no slash, at most 100 characters.
        records: n pictures; each id is the first 16 digits of its sha256, none comes twice.
        caption_embeddings: float32 (captions, profile.sentence.dim), rows of unit norm, in the
            order of :class:`core.gallery.caption_rows.CaptionRows`: (n, dim) for one caption each.
        clip_embeddings: float32 (n, profile.clip.dim), likewise.
        copies: A thumbnail of each picture, and the large copies that shall be kept.
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
        indexes: Kinds of index, the best first; none chooses by size
            (:func:`core.search.engines.training.kinds_for`).
        texts: Queries by lens that the indexes are measured with; see
            :func:`core.search.engines.training.measured`.

    Returns:
        The manifest as written.

    Raises:
        EmbeddingError: Embeddings of another shape, not finite, or not of unit norm.
        ModelNotFoundError: A model of the profile is not there, so has no revision.
        OSError: A file could not be written.
        IncompleteGalleryError: A thumbnail or an extra file is missing.
        ValueError: Ids that do not fit, or counts that disagree with the records.
    """
    draft = Manifest(
        name=name,
        created_at=created_at or now(),
        source=source,
        profile=profile.name,
        captioner=ModelRef.of(profile.captioner) if caption_origin == "generated" else None,
        sentence=ModelRef.of(profile.sentence),
        clip=ModelRef.of(profile.clip),
        caption_origin=caption_origin,
        captions_per_image=captions_per_image,
        caption_pooling=caption_pooling,
        text_reader=text_reader,
        counts=counts or Counts(images=len(records)),
        files={},
    )
    embeddings: dict[Lens, np.ndarray] = {"captions": caption_embeddings, "clip": clip_embeddings}
    return write_as(
        draft, folder, records, embeddings, copies, extra_files, indexes=indexes, texts=texts
    )


def write_as(
    draft: Manifest,
    folder: Path,
    records: Sequence[ImageRecord],
    embeddings: Mapping[Lens, np.ndarray],
    copies: PictureCopies,
    extra_files: Iterable[str] = (),
    *,
    indexes: Sequence[IndexKind] = (),
    texts: Mapping[Lens, Sequence[np.ndarray]] | None = None,
) -> Manifest:
    """Fill a folder with the gallery that a manifest without files describes.

    See :func:`write_gallery`; all models are those of the draft.
    """
    if draft.counts.images != len(records):
        raise ValueError(f"counts.images is {draft.counts.images} for {len(records)} records")
    check_ids(records)
    rows = CaptionRows.of(records)
    vectors: dict[Lens, np.ndarray] = {
        "captions": _checked("caption", embeddings["captions"], len(rows), draft.sentence.dim),
        "clip": _checked("CLIP", embeddings["clip"], len(records), draft.clip.dim),
    }
    extra = tuple(extra_files)
    _check_present(folder, [folder / file for file in extra])

    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    with_text = any(record.text_in_picture for record in records)
    schema = gallery_schema(several=not rows.single, text=with_text)
    names = [*write_dataset(folder, schema, _rows(folder, records, copies)), *extra]
    names += _write_large(folder, records, copies)
    kinds = indexes or kinds_for(len(rows), max(array.shape[1] for array in vectors.values()))
    entries: dict[Lens, tuple[IndexEntry, ...]] = {}
    for lens, array in vectors.items():
        write_array(folder / embeddings_file(lens), array)
        indexed = array
        if lens == "captions":
            indexed, _ = rows.indexed(array, draft.caption_pooling, folder)
        entries[lens], written = write_indexes(
            folder, lens, indexed, kinds, (texts or {}).get(lens, ())
        )
        names += written
    files = {name: FileRef.of(folder / name) for name in sorted({*names, *REQUIRED_FILES})}
    fsync(folder)
    return draft.model_copy(update={"files": files, "indexes": entries}).write(folder)


def _rows(
    folder: Path, records: Sequence[ImageRecord], copies: PictureCopies
) -> Iterator[dict[str, Any]]:
    for record in records:
        try:
            thumbnail = copies.thumbnail(record.id)
        except FileNotFoundError as error:
            raise IncompleteGalleryError(
                folder, f"The thumbnail of {record.file_name[:200]} is missing."
            ) from error
        yield {**asdict(record), IMAGE_COLUMN: _image(record, thumbnail)}


def _image(record: ImageRecord, content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": f"{record.id}.webp"}


def _write_large(folder: Path, records: Sequence[ImageRecord], copies: PictureCopies) -> list[str]:
    """Write the large copies that there are; return the names of their files, or none."""

    def rows() -> Iterator[dict[str, Any]]:
        for record in records:
            content = copies.large(record.id)
            if content is not None:
                digest = hashlib.sha256(content).hexdigest()
                yield {"id": record.id, "sha256": digest, IMAGE_COLUMN: _image(record, content)}

    shutil.rmtree(folder / LARGE_FOLDER, ignore_errors=True)
    found = rows()
    first = next(found, None)
    if first is None:
        return []
    (folder / LARGE_FOLDER).mkdir()
    names = write_dataset(folder / LARGE_FOLDER, large_schema(), chain([first], found))
    fsync(folder / LARGE_FOLDER)
    return [f"{LARGE_FOLDER}/{name}" for name in names]


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
