"""What a gallery's files hold, checked: whole where that takes a moment, else by a sample."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import EmbeddingError
from core.gallery.caption_rows import CaptionRows
from core.gallery.dataset.image_ids import ImageIds
from core.gallery.dataset.reading import Dataset, open_dataset
from core.gallery.dataset.records import Records, check_records, check_schema, large_schema
from core.gallery.folder import GalleryFolder, damaged
from core.gallery.layout import (
    LARGE_FOLDER,
    embeddings_file,
    index_files,
)
from core.gallery.manifest import Manifest
from core.mapped import read_rows
from core.records import LENSES, Lens
from core.search.index import check_embeddings

_MOST_HEADER_BYTES = 4096
SMALL_FILE_BYTES = 1_000_000
_SAMPLED_ROWS = 256
_SAMPLED_PICTURES = 4


@dataclass(frozen=True, slots=True)
class Pictures:
    """The records of a gallery and their pictures.

    Attributes:
        records: In row order.
        ids: Theirs.
        caption_rows: Which rows of the caption embeddings are whose.
        has_references: Whether people's captions came with any picture.
        thumbnails: The picture of each row.
        large: Which pictures have a large copy, and these; None if none are kept.
    """

    records: Records
    ids: ImageIds
    caption_rows: CaptionRows
    has_references: bool
    thumbnails: Dataset
    large: LargeCopies | None


class LargeCopies:
    """The large copies of a gallery, each verified when it is read.

    Args:
        copies: Columns as in :func:`core.gallery.dataset.records.large_schema`.
        folder: Of the gallery.

    Raises:
        ValueError: Ids that do not fit.
    """

    def __init__(self, copies: Dataset, folder: Path) -> None:
        """Hold the rows by id."""
        self._copies, self._folder = copies, folder
        self._ids = ImageIds.of_column(copies.table["id"])

    def __contains__(self, image_id: object) -> bool:
        """Tell whether a picture has one."""
        return image_id in self._ids

    def read(self, image_id: str) -> bytes | None:
        """Return a picture's large copy; None if it has none.

        Raises:
            CorruptGalleryError: It is not the one that was built.
            GalleryError: It cannot be read.
        """
        row = self._ids.row_of(image_id)
        if row is None:
            return None
        content = self._copies.image(row)
        if hashlib.sha256(content).hexdigest() != self._copies.table["sha256"][row].as_py():
            raise damaged(self._folder, f"the large copy of {image_id} is not the one built")
        return content


def is_mapped(manifest: Manifest, verified_up_to: int) -> bool:
    """Tell whether a gallery is so large that it is mapped, and opened without reading it all.

    Args:
        manifest: Of the gallery.
        verified_up_to: Bytes, of all files but the large copies, that are read and verified.
    """
    large = set(manifest.large_shards)
    return sum(ref.bytes for name, ref in manifest.files.items() if name not in large) > (
        verified_up_to
    )


def read_pictures(held: GalleryFolder, manifest: Manifest, *, mapped: bool) -> Pictures:
    """Open a gallery's records and pictures.

    Args:
        held: Its folder.
        manifest: As parsed from there.
        mapped: See :func:`core.gallery.dataset.reading.open_dataset`; ids are checked whole
            either way.

    Raises:
        CorruptGalleryError: A shard is missing, not the one that was built, or does not fit.
        GalleryError: It cannot be read.
    """
    thumbnails = open_dataset(held, manifest.files, manifest.shards, mapped=mapped)
    records = Records(thumbnails.table)
    try:
        check_schema(thumbnails.table.schema)
        ids = check_records(records, sampled=mapped)
    except ValueError as error:
        raise damaged(held.path, f"its records do not fit: {error}") from error
    if len(records) != manifest.counts.images:
        raise damaged(
            held.path,
            f"it has {len(records)} records, the manifest says {manifest.counts.images}",
        )
    for row in {*range(min(_SAMPLED_PICTURES, len(records))), len(records) - 1} - {-1}:
        thumbnails.image(row)
    rows, referred = CaptionRows.counted(records.caption_counts), records.any_references
    thumbnails.release()
    return Pictures(records, ids, rows, referred, thumbnails, _large_in(held, manifest))


def check_files(held: GalleryFolder, manifest: Manifest, *, mapped: bool, read: bool) -> None:
    """Check the files of a gallery.

    Args:
        held: Its folder.
        manifest: As parsed from there.
        mapped: Whether the size of a large file is enough; else all but the large copies, which
            are verified when they are shown, are hashed.
        read: Whether those that a search needs are left out, being verified as they are read.

    Raises:
        CorruptGalleryError: A file is missing, or not the one that was built.
        GalleryError: A file cannot be read.
    """
    has_large = held.has_folder(LARGE_FOLDER)  # a copy from the Hub comes without
    large = set(manifest.large_shards)
    needed = {*manifest.shards, *map(embeddings_file, LENSES)}
    needed |= {*index_files(kind for kind in manifest.index_kinds if kind != "flat")}
    for name, ref in manifest.files.items():
        if name.startswith(f"{LARGE_FOLDER}/") and not has_large:
            continue
        if name in large or (mapped and ref.bytes > SMALL_FILE_BYTES):
            held.check_size(name, ref)
        elif not (read and not mapped and name in needed):
            held.verify(name, ref)


def read_embeddings(
    held: GalleryFolder, manifest: Manifest, lens: Lens, count: int, *, mapped: bool
) -> np.ndarray:
    """Return a lens's embeddings, read-only: float32 (count, dim), rows of unit norm.

    Args:
        held: The gallery's folder.
        manifest: As parsed from there.
        lens: Whose.
        count: How many there must be.
        mapped: Whether they are mapped, and the norms of some rows are enough.

    Raises:
        CorruptGalleryError: They are missing, not those that were built, or do not fit.
        GalleryError: They cannot be read.
    """
    name = embeddings_file(lens)
    dim = (manifest.sentence if lens == "captions" else manifest.clip).dim
    if not mapped:
        content = held.read_verified(name, manifest.files[name])
        return _embeddings_in(content, held.path, lens, count, dim, sampled=False)
    file = held.held(name, manifest.files[name].bytes)
    rows = _embeddings_in(file.map(), held.path, lens, count, dim, sampled=True)
    file.release()
    return rows


def _large_in(held: GalleryFolder, manifest: Manifest) -> LargeCopies | None:
    names = manifest.large_shards
    if not names or not held.has_folder(LARGE_FOLDER):
        return None
    # Mapped in any case: a copy is verified when it is read.
    copies = open_dataset(held, manifest.files, names, mapped=True)
    wanted = large_schema()
    try:
        if copies.table.column_names != ["id", "sha256"]:
            raise ValueError("other columns")
        if any(
            copies.table.schema.field(name).type != wanted.field(name).type
            for name in ("id", "sha256")
        ):
            raise ValueError("columns of other types")
        return LargeCopies(copies, held.path)
    except ValueError as error:
        raise damaged(held.path, f"{LARGE_FOLDER} holds no large copies ({error})") from error


def _embeddings_in(
    content: np.ndarray, folder: Path, lens: Lens, count: int, dim: int | None, *, sampled: bool
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
        array = content[start:].view(np.float32).reshape(count, dim or 0)
        some = np.linspace(0, count - 1, min(count, _SAMPLED_ROWS), dtype=np.int64)
        check_embeddings(read_rows(array, some) if sampled else array)
    except EmbeddingError as error:
        raise damaged(folder, f"{name} cannot be searched: {error}") from error
    array.setflags(write=False)
    return array
