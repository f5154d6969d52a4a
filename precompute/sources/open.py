"""Which reader fits a source."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import SourceError
from core.files import local_path
from precompute.sources.types import IMAGE_COLUMNS, KeptSource, Source, SourceOptions

_DATASET_ID = re.compile(r"\A[\w][\w.-]*(/[\w][\w.-]*)?\Z", re.ASCII)


def open_source(options: SourceOptions) -> Source:
    """Find what ``options.source`` is and open it; nothing is decoded yet.

    Raises:
        SourceError: It does not exist, is empty, cannot be reached, or lacks a column.
    """
    return _open(options, kept=False)


def open_kept_source(options: SourceOptions) -> KeptSource:
    """Open a source for training: a dataset is fetched whole, not streamed.

    Of several splits ``train`` is taken if none is asked for.

    Raises:
        SourceError: As :func:`open_source`.
    """
    return _open(options, kept=True)


def _open(options: SourceOptions, *, kept: bool) -> KeptSource:
    if options.limit is not None and options.limit < 1:
        raise SourceError(f"--limit must be 1 or more, not {options.limit}.")
    path = local_path(options.source)
    if path.exists():
        return _open_local(path, options, kept=kept)
    if options.source.count("/") > 1 or not _DATASET_ID.match(options.source):
        raise SourceError(f"There is no folder {options.source}.")
    from precompute.sources.dataset.open_dataset import open_hub_dataset

    return open_hub_dataset(options, kept=kept)


def _open_local(path: Path, options: SourceOptions, *, kept: bool) -> KeptSource:
    from precompute.sources.photo_folders.folder import FolderSource, with_train_split

    if path.is_dir() and not _is_dataset_folder(path):
        return FolderSource(path, with_train_split(path, options) if kept else options)
    if path.is_file() and path.suffix.lower() not in (".parquet", ".tar"):
        raise SourceError(
            f"{options.source} is a file; a source is a folder, a dataset, or a file of one "
            "(.parquet, or .tar of a WebDataset)."
        )
    from precompute.sources.dataset.open_dataset import open_local_dataset

    return open_local_dataset(path, options, kept=kept)


def _is_dataset_folder(path: Path) -> bool:
    """Tell a dataset written by ``datasets``, or a folder of its files, from one of photos."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return True
    from precompute.sources.photo_folders.folder_kind import table_files

    return table_files(path, IMAGE_COLUMNS) is not None
