"""A dataset read by the ``datasets`` library: from the Hub, saved on disk, or parquet files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from core.config import get_settings
from core.errors import SourceError
from precompute.sources.caption_columns import check_column, holds_captions
from precompute.sources.image_cells import read_cell
from precompute.sources.open import (
    IMAGE_COLUMNS,
    Columns,
    Opener,
    SourceImage,
    SourceOptions,
    find_columns,
    printable_name,
)
from precompute.sources.remote_files import RemoteFiles

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    AnyDataset: TypeAlias = Dataset | IterableDataset

_HUB_TIMEOUT_S = 15
T = TypeVar("T")


def open_hub_dataset(options: SourceOptions, *, kept: bool = False) -> DatasetSource:
    """Open a dataset of the Hub as a stream, at a commit that is pinned now.

    With ``HF_HUB_OFFLINE`` set, a dataset that is in the local cache is read from there.

    Args:
        options: See :class:`~precompute.sources.open.SourceOptions`.
        kept: Whether to fetch it whole, to be read in any order.

    Raises:
        SourceError: It does not exist, cannot be reached, or lacks a split or column.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    offline = constants.HF_HUB_OFFLINE
    revision, names = options.revision, [options.source]
    if not offline:
        found = _reaching(
            options.source,
            lambda: HfApi().dataset_info(
                options.source, revision=options.revision, timeout=_HUB_TIMEOUT_S
            ),
        )
        revision = found.sha
        names.append(found.id)
    loaded = _reaching(
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
        options: See :class:`~precompute.sources.open.SourceOptions`.
        kept: Whether it must be readable in any order.

    Raises:
        SourceError: It cannot be read, or lacks a split or column.
    """
    from datasets import load_dataset, load_from_disk

    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        loaded = _reaching(options.source, lambda: load_from_disk(str(path)))
    elif path.is_file():
        loaded = _reaching(
            options.source,
            lambda: load_dataset("parquet", data_files=str(path), streaming=not kept),
        )
    else:
        loaded = _reaching(
            options.source,
            lambda: load_dataset(str(path.resolve()), options.subset, streaming=not kept),
        )
    dataset, split = _pick_split(loaded, options, kept=kept)
    name = printable_name(path.resolve().name)
    return DatasetSource(dataset, options, name, split, None, _digest_of_files(path))


class DatasetSource:
    """The rows of one split, in their order; images stay encoded bytes.

    Args:
        dataset: One split, streamed or on disk.
        options: See :class:`~precompute.sources.open.SourceOptions`.
        name: Shown to visitors.
        split: Name of the split.
        revision: Commit of a Hub dataset.
        fingerprint: See :class:`~precompute.sources.open.Source`.
        local_paths: Whether a row may name a file of this machine. Not for what comes from
            elsewhere, which could name a private one: then only a file of the Hub's cache.
        repositories: Ids of the dataset on the Hub, whose files a row may name.

    Raises:
        SourceError: A column does not exist, or none holds images.
    """

    kind = "dataset"

    def __init__(
        self,
        dataset: AnyDataset,
        options: SourceOptions,
        name: str,
        split: str,
        revision: str | None,
        fingerprint: str,
        *,
        local_paths: bool = True,
        repositories: Iterable[str] = (),
    ) -> None:
        """Find the columns; read no row."""
        import datasets

        if dataset.features is None:
            # Only a stream can lack them; it then reads its first row.
            dataset = _reaching(name, dataset._resolve_features)
        features = dict(dataset.features or {})
        image = find_image_column(features, options)
        self.columns = _find_columns(features, options, image)
        if isinstance(features[image], datasets.Image):
            dataset = dataset.cast_column(image, datasets.Image(decode=False))
        self._dataset = dataset.select_columns(self.columns.used())
        self._image = image
        self._limit = options.limit
        self._local_paths = local_paths
        settings = get_settings()
        self._remote = RemoteFiles(
            repositories, limit_s=settings.fetch_timeout_s, private=settings.fetch_private
        )
        self.name = name
        self.split: str | None = split
        self.revision = revision
        self.fingerprint = fingerprint
        self.total = self._count(dataset)
        self.remarks: list[str] = []

    def read(self, start: int) -> Iterator[SourceImage]:
        """Yield the rows from number ``start`` on."""
        rows = self._rows(start)
        for number in range(start, start + self._most_rows(start)):
            row = _reaching(self.name, lambda: next(rows, None), after=number)
            if row is None:
                return
            file_name, content, problem = self._image_of(row.get(self._image), number)
            yield self.columns.describe((row,), file_name, content, problem)

    def content(self, row: int) -> Path | bytes | Opener:
        """Return the encoded picture of a row of a dataset that lies on this machine.

        Raises:
            SourceError: It has none, or can no longer be read.
        """
        cell = _reaching(self.name, lambda: self._dataset[row][self._image])
        _, content, problem = self._image_of(cell, row)
        if content is None:
            raise SourceError(f"Row {row} of {self.name} {problem}.")
        return content

    def _image_of(
        self,
        value: Any,  # noqa: ANN401 - whatever a row holds
        number: int,
    ) -> tuple[str, Path | bytes | Opener | None, str]:
        """Return file name, content and problem of one image cell."""
        cell = read_cell(value, f"row-{number:06d}")
        if cell.content is not None or cell.place is None:
            return cell.file_name, cell.content, cell.problem
        if "://" in cell.place:
            return cell.file_name, *self._remote.open(cell.place, cell.file_name)
        if not self._local_paths and not _is_cached(cell.place):
            return cell.file_name, None, "is named by a path, not contained in the dataset"
        return cell.file_name, Path(cell.place), ""

    def _rows(self, start: int) -> Iterator[Mapping[str, Any]]:
        if hasattr(self._dataset, "__len__"):
            dataset: Any = self._dataset
            return iter(dataset.select(range(min(start, len(dataset)), len(dataset))))
        return iter(self._dataset.skip(start))

    def _most_rows(self, start: int) -> int:
        return max(0, self._limit - start) if self._limit is not None else 1 << 62

    def _count(self, dataset: AnyDataset) -> int | None:
        count: int | None = None
        if hasattr(dataset, "__len__"):
            count = len(dataset)
        elif dataset.info.splits and self.split in dataset.info.splits:
            count = dataset.info.splits[self.split].num_examples or None
        if count is None or self._limit is None:
            return count if count is not None else self._limit
        return min(count, self._limit)


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


def find_image_column(features: Mapping[str, Any], options: SourceOptions) -> str:
    """Return the column of the images: the one asked for, a declared one, or one of usual name.

    Raises:
        SourceError: There is none, or it cannot hold images.
    """
    import datasets

    names = list(features)
    if options.image_column:
        check_column(options.image_column, names, options.source)
        if not _may_hold_images(features[options.image_column]):
            raise SourceError(f"The column {options.image_column!r} holds no images.")
        return options.image_column
    declared = [name for name in names if isinstance(features[name], datasets.Image)]
    if declared:
        return declared[0]
    for name in IMAGE_COLUMNS:
        if name in names and _may_hold_images(features[name]):
            return name
    raise SourceError(
        f"{options.source} has no column of images; name it by --image-column. "
        f"It has: {', '.join(names)}."
    )


def _find_columns(features: Mapping[str, Any], options: SourceOptions, image: str) -> Columns:
    """Return which column is what; what a user named for captions must be text."""
    samples = {name: _sample(feature) for name, feature in features.items()}
    columns = find_columns(
        list(features), options, image, lambda name: holds_captions([samples[name]])
    )
    for captions in (columns.given, columns.references):
        if captions is not None:
            captions.check([samples])
    return columns


def _sample(feature: Any) -> Any:  # noqa: ANN401 - any kind of datasets feature
    """Return a value such as a column of a kind may hold, to ask whether captions may be there."""
    if isinstance(feature, Mapping):
        return {name: _sample(part) for name, part in feature.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None:
        return [_sample(inner)]
    kind = str(getattr(feature, "dtype", ""))
    if kind in ("string", "large_string", "string_view"):
        return "text"
    return b"" if "binary" in kind or kind == "dict" else 0


def _is_cached(path: str) -> bool:
    """Tell whether a path leads into the caches in which the Hub's files are kept."""
    from datasets import config
    from huggingface_hub import constants

    caches = (str(config.HF_DATASETS_CACHE), str(config.DOWNLOADED_DATASETS_PATH))
    place = os.path.abspath(path)
    return any(
        os.path.commonpath([place, os.path.abspath(cache)]) == os.path.abspath(cache)
        for cache in (*caches, constants.HF_HUB_CACHE)
    )


def _may_hold_images(feature: Any) -> bool:  # noqa: ANN401 - any kind of datasets feature
    import datasets

    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, Mapping):
        return "bytes" in feature or "path" in feature
    kind = getattr(feature, "dtype", "")
    return kind in ("binary", "large_binary", "string", "large_string")


def _digest_of_files(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        name = os.path.relpath(file, path)
        digest.update(f"{printable_name(name)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _reaching(source: str, call: Callable[[], T], after: int | None = None) -> T:
    """Call into the library and turn its many errors into one sentence."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import errors

    try:
        return call()
    except (DatasetNotFoundError, errors.RepositoryNotFoundError) as error:
        raise SourceError(
            f"There is no folder {source}, and no dataset of that name on the Hugging Face Hub "
            "that may be read without signing in."
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError, errors.HTTPError) as error:
        where = "" if after is None else f" after {after:,} rows"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        hint = "" if Path(source).exists() else f"There is no folder {source}, and the "
        what = f"{hint}dataset" if hint else f"The dataset {source}"
        raise SourceError(f"{what} could not be read{where} ({reason}).") from error
