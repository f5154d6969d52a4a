"""Whether a folder holds photos, a dataset's parquet files, or WebDataset archives."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import SourceError
from precompute.sources.photo_folders.side_files import PHOTO_SUFFIXES
from precompute.sources.photo_folders.system_files import is_system_file

if TYPE_CHECKING:
    import pyarrow as pa

_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class TableFiles:
    """The files in which a folder keeps its rows.

    Attributes:
        kind: What the library ``datasets`` calls them.
        paths: Sorted.
    """

    kind: Literal["parquet", "webdataset"]
    paths: tuple[Path, ...]


def table_files(folder: Path, image_columns: Iterable[str]) -> TableFiles | None:
    """Return the files that hold a folder's pictures as rows; None if photos lie there themselves.

    Parquet files with pictures inside come first, wherever they lie: a dataset's clone may hold a
    banner. Others are notes about the photos beside them. Without photos, archives come before
    parquet files that only describe them, as ``img2dataset`` writes both.

    Args:
        folder: Not one that ``datasets`` saved.
        image_columns: Names under which a column of bytes counts as pictures.

    Raises:
        SourceError: The rows are pointers of Git LFS.
    """
    photos = False
    parquet: list[Path] = []
    archives: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _is_meant(name)]
        for name in filter(_is_meant, files):
            suffix = os.path.splitext(name)[1].lower()
            photos = photos or suffix in PHOTO_SUFFIXES
            if suffix == ".parquet":
                parquet.append(Path(place, name))
            elif suffix == ".tar":
                archives.append(Path(place, name))
    names = frozenset(image_columns)
    with_pictures = [path for path in sorted(parquet) if _holds_pictures(path, names)]
    if with_pictures:
        return TableFiles("parquet", tuple(with_pictures))
    if photos or not (archives or parquet):
        return None
    for path in (*archives, *parquet):
        if _is_pointer(path):
            raise SourceError(
                f"{path.name} is a pointer of Git LFS in place of the file: run git lfs pull in "
                f"{folder.name} first."
            )
    if archives:
        return TableFiles("webdataset", tuple(sorted(archives)))
    return TableFiles("parquet", tuple(sorted(parquet)))


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False


def _is_meant(name: str) -> bool:
    return not name.startswith(".") and not is_system_file(name)


def _holds_pictures(path: Path, names: frozenset[str]) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            schema = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        return False
    return any(_is_picture(field.type, field.name in names) for field in schema)


def _is_picture(kind: pa.DataType, named: bool) -> bool:
    """Tell ``{bytes, path}``, or bytes under a usual name, or a list of either."""
    import pyarrow as pa

    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_picture(kind.value_type, named)
    if types.is_struct(kind):
        inside = {field.name: field.type for field in kind}
        return "bytes" in inside and _is_bytes(inside["bytes"])
    return named and _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
