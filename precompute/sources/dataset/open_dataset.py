"""Datasets by the library ``datasets``: of the Hub, saved on disk, parquet files or archives."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import SourceError
from precompute.sources.dataset.rows import DatasetSource, reaching
from precompute.sources.photo_folders.folder_kind import table_files
from precompute.sources.photo_folders.system_files import is_system_file
from precompute.sources.types import IMAGE_COLUMNS, SourceOptions, printable_name

if TYPE_CHECKING:
    from precompute.sources.dataset.rows import AnyDataset

_HUB_TIMEOUT_S = 15


def open_hub_dataset(options: SourceOptions, *, kept: bool = False) -> DatasetSource:
    """Open a dataset of the Hub as a stream, at a commit that is pinned now.

    With ``HF_HUB_OFFLINE`` set, a dataset that is in the local cache is read from there.

    Args:
        options: See :class:`~precompute.sources.types.SourceOptions`.
        kept: Whether to fetch it whole, to be read in any order.

    Raises:
        SourceError: It does not exist, cannot be reached, or lacks a split or column.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    offline = constants.HF_HUB_OFFLINE
    revision, names = options.revision, [options.source]
    if not offline:
        found = reaching(
            options.source,
            lambda: HfApi().dataset_info(
                options.source, revision=options.revision, timeout=_HUB_TIMEOUT_S
            ),
        )
        revision = found.sha
        names.append(found.id)
    loaded = reaching(
        options.source,
        lambda: load_dataset(
            options.source, options.subset, revision=revision, streaming=not (offline or kept)
        ),
    )
    dataset, split = _pick_split(loaded, options, kept=kept)
    return DatasetSource(
        dataset,
        options,
        options.source,
        split,
        revision,
        str(revision),
        local_paths=False,
        repositories=names,
    )


def open_local_dataset(path: Path, options: SourceOptions, *, kept: bool = False) -> DatasetSource:
    """Open a dataset saved by ``save_to_disk``, a parquet file, or a folder of them.

    Args:
        path: Where it lies.
        options: See :class:`~precompute.sources.types.SourceOptions`.
        kept: Whether it must be readable in any order.

    Raises:
        SourceError: It cannot be read, or lacks a split or column.
    """
    from datasets import load_dataset, load_from_disk

    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        loaded = reaching(options.source, lambda: load_from_disk(str(path)))
    elif path.is_file():
        loaded = reaching(
            options.source,
            lambda: load_dataset(
                "webdataset" if path.suffix.lower() == ".tar" else "parquet",
                data_files=glob.escape(str(path)),
                streaming=not kept,
            ),
        )
    else:
        loaded = reaching(options.source, lambda: _load_folder(path.resolve(), options, kept))
    dataset, split = _pick_split(loaded, options, kept=kept)
    name = printable_name(path.resolve().name)
    base = path if path.is_dir() else path.parent
    digest = _digest_of_files(path)
    return DatasetSource(dataset, options, name, split, None, digest, base=base)


def _load_folder(folder: Path, options: SourceOptions, kept: bool) -> Any:  # noqa: ANN401
    """Load the parquet files or archives of a folder, whatever else lies beside them."""
    from datasets import load_dataset

    found = table_files(folder, IMAGE_COLUMNS)
    if options.subset or found is None or _has_configurations(folder):
        return load_dataset(str(folder), options.subset, streaming=not kept)
    splits = _splits(folder, found.paths)
    return load_dataset(found.kind, data_files=splits, streaming=not kept)


def _has_configurations(folder: Path) -> bool:
    """Tell whether a dataset's card says itself which file belongs to what."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:100_000]
    except OSError:
        return False
    return head.startswith("---") and "\nconfigs:" in head.split("\n---", 1)[0]


def _splits(folder: Path, paths: Iterable[Path]) -> dict[str, list[str]]:
    """Return the files of each split, as ``datasets`` tells them by their names."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    chosen = {str(path) for path in paths}
    try:
        patterns = get_data_patterns(str(folder))
        by_split = DataFilesDict.from_patterns(patterns, base_path=str(folder))
    except (EmptyDatasetError, FileNotFoundError):
        by_split = {}
    splits = {
        str(split): [glob.escape(str(file)) for file in files if str(file) in chosen]
        for split, files in by_split.items()
    }
    splits = {split: files for split, files in splits.items() if files}
    return splits or {"train": [glob.escape(path) for path in sorted(chosen)]}


def _pick_split(
    loaded: Any,  # noqa: ANN401 - what datasets returns
    options: SourceOptions,
    *,
    kept: bool,
) -> tuple[AnyDataset, str]:
    """Return the split asked for, or the only one; for training ``train`` of several."""
    if not isinstance(loaded, dict):
        split = str(loaded.split or "train")
        if options.split not in (None, split):
            raise SourceError(f"{options.source} has no split {options.split!r}; it has: {split}.")
        return loaded, split
    names = ", ".join(loaded)
    if options.split is None:
        if kept and "train" in loaded:
            return loaded["train"], "train"
        if len(loaded) != 1:
            raise SourceError(f"{options.source} has several splits; choose by --split: {names}.")
        return next(iter(loaded.values())), next(iter(loaded))
    if options.split not in loaded:
        raise SourceError(f"{options.source} has no split {options.split!r}; it has: {names}.")
    return loaded[options.split], options.split


def _digest_of_files(path: Path) -> str:
    files = [path] if path.is_file() else sorted(_meant_files(path))
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        name = os.path.relpath(file, path)
        digest.update(f"{printable_name(name)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _meant_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_system_file(name)]
        paths = (Path(place, name) for name in files if not is_system_file(name))
        yield from (path for path in paths if path.is_file())
