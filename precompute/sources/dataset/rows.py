"""The rows of a dataset that the library ``datasets`` has opened."""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from core.config import get_settings
from core.errors import SourceError
from precompute.sources.caption_columns import check_column, holds_captions, no_captions
from precompute.sources.dataset.image_cells import read_cell
from precompute.sources.dataset.remote_files import RemoteFiles
from precompute.sources.dataset.row_groups import RowGroups
from precompute.sources.types import (
    IMAGE_COLUMNS,
    Columns,
    Opener,
    SourceImage,
    SourceOptions,
    find_columns,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    AnyDataset: TypeAlias = Dataset | IterableDataset

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_UNREADABLE = (
    *(OSError, ValueError, RuntimeError, LookupError, EOFError, TarError, zlib.error),
    *(TypeError, AttributeError),
)
"""What the library raises of files that are damaged, or not what their names say."""
_SEVERAL_SUBSETS = re.compile(r"Config name is missing.*?\[(.*?)\]")
T = TypeVar("T")


class DatasetSource:
    """The rows of one split, in their order; images stay encoded bytes.

    Args:
        dataset: One split, streamed or on disk.
        options: See :class:`~precompute.sources.types.SourceOptions`.
        name: Shown to visitors.
        split: Name of the split.
        revision: Commit of a Hub dataset.
        fingerprint: See :class:`~precompute.sources.types.Source`.
        local_paths: Whether a row may name a file of this machine. Not for what comes from
            elsewhere, which could name a private one: then only a file of the Hub's cache.
        repositories: Ids of the dataset on the Hub, whose files a row may name.
        base: Where a row's relative path begins.

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
        base: Path = Path(),
    ) -> None:
        """Find the columns; read no row."""
        import datasets

        if dataset.features is None:
            # Only a stream can lack them; it then reads its first row.
            dataset = reaching(options.source, dataset._resolve_features)
        features = dict(dataset.features or {})
        image = find_image_column(features, options)
        inner = _item(features[image])
        self._several = inner is not None
        self._groups = RowGroups.of(dataset)
        self.columns = _find_columns(features, options, image)
        if isinstance(inner or features[image], datasets.Image):
            undecoded: Any = datasets.Image(decode=False)
            if inner is not None:
                kind = type(features[image])
                undecoded = [undecoded] if kind is list else kind(undecoded)
            dataset = dataset.cast_column(image, undecoded)
        self._dataset = dataset.select_columns(self.columns.used())
        self._image = image
        self._limit = options.limit
        self._local_paths = local_paths
        self._base = base
        self._folders_seen: set[Path] = set()
        self._places: list[tuple[int, int]] = []
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
        if self.columns.references is None and self.columns.given is None and len(features) > 1:
            self.remarks.append(no_captions(list(features)))

    def entry(self, start: int) -> int:
        """Return where reading on to a row begins: there, at its row group, or at the first row."""
        if self._several:
            return 0
        if hasattr(self._dataset, "__len__"):
            return start
        groups = self._groups
        return 0 if groups is None else reaching(self.name, lambda: groups.entry(start))

    def read(self, start: int) -> Iterator[SourceImage]:
        """Yield the rows from number ``start`` on; of a row with several pictures, each."""
        if not self._several:
            yield from self._pictures(start)
            return
        # Only reading from the first row on tells how many pictures came before.
        self._places.clear()
        yield from islice(self._pictures(0), start, self._limit)

    def _pictures(self, start: int) -> Iterator[SourceImage]:
        rows = reaching(self.name, lambda: self._rows(start), after=start)
        for number in range(start, start + self._most_rows(start)):
            row = reaching(self.name, lambda: next(rows, None), after=number)
            if row is None:
                return
            for place, cell in enumerate(self._cells(row.get(self._image))):
                if self._several:
                    self._places.append((number, place))
                file_name, content, problem = self._image_of(cell, number, place)
                yield self.columns.describe((row,), file_name, content, problem)

    def _cells(self, value: Any) -> Iterable[Any]:  # noqa: ANN401 - whatever a row holds
        if not self._several:
            return (value,)
        return value or (None,)

    def content(self, row: int) -> Path | bytes | Opener:
        """Return the encoded picture of a row of a dataset that lies on this machine.

        Of rows with several pictures, the number is that of the picture, once all were read.

        Raises:
            SourceError: It has none, or can no longer be read.
        """
        number, place = self._places[row] if self._several else (row, 0)
        value = reaching(self.name, lambda: self._dataset[number][self._image], after=number)
        _, content, problem = self._image_of([*self._cells(value)][place], number, place)
        if content is None:
            raise SourceError(f"Row {row} of {self.name} {problem}.")
        return content

    def _image_of(
        self,
        value: Any,  # noqa: ANN401 - whatever a row holds
        number: int,
        place: int,
    ) -> tuple[str, Path | bytes | Opener | None, str]:
        """Return file name, content and problem of one image cell."""
        cell = read_cell(value, f"row-{number:06d}" + (f"-{place}" if self._several else ""))
        if cell.content is not None or cell.place is None:
            return cell.file_name, cell.content, cell.problem
        if "://" in cell.place:
            return cell.file_name, *self._remote.open(cell.place, cell.file_name)
        if not self._local_paths and not _is_cached(cell.place):
            return cell.file_name, None, "is named by a path, not contained in the dataset"
        path = self._existing(cell.place)
        if path is None:
            return cell.file_name, None, "is named in its row but does not exist"
        return cell.file_name, path, ""

    def _existing(self, place: str) -> Path | None:
        """Return the file of a path in a row, relative to the dataset or to the working folder.

        Raises:
            SourceError: Its folder was there before, or the system cannot say.
        """
        names = (place, place.replace("\\", "/"))
        bases = (self._base, Path())
        for path in dict.fromkeys(base / name for name in names for base in bases):
            try:
                path.stat()
            except OSError as error:
                gone = path.parent in self._folders_seen and not path.parent.is_dir()
                if error.errno in _ABSENT and not gone:
                    continue
                raise SourceError(
                    f"{path} can no longer be read ({error.strerror}). Finished shards are kept: "
                    "give the same command again once it can be."
                ) from error
            else:
                self._folders_seen.add(path.parent)
                return path
        return None

    def _rows(self, start: int) -> Iterator[Mapping[str, Any]]:
        if hasattr(self._dataset, "__len__"):
            dataset: Any = self._dataset
            return iter(dataset.select(range(min(start, len(dataset)), len(dataset))))
        if start and self._groups is not None:
            return self._groups.read(self._dataset, start)
        return iter(self._dataset.skip(start))

    def _most_rows(self, start: int) -> int:
        if self._several:
            return 1 << 62
        return max(0, self._limit - start) if self._limit is not None else 1 << 62

    def _count(self, dataset: AnyDataset) -> int | None:
        count: int | None = None
        if self._several:
            return self._limit
        if hasattr(dataset, "__len__"):
            count = len(dataset)
        elif dataset.info.splits and self.split in dataset.info.splits:
            count = dataset.info.splits[self.split].num_examples or None
        elif self._groups is not None:
            count = reaching(self.name, self._groups.count)
        if count is None or self._limit is None:
            return count if count is not None else self._limit
        return min(count, self._limit)


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
    declared = [
        name
        for name in names
        if isinstance(_item(features[name]) or features[name], datasets.Image)
    ]
    if declared:
        return min(declared, key=lambda name: _item(features[name]) is not None)
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
    if languages := getattr(feature, "languages", None):
        return dict.fromkeys(languages, "text")
    kind = str(getattr(feature, "dtype", ""))
    if kind == "null":
        return None
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


def _item(feature: Any) -> Any:  # noqa: ANN401 - any kind of datasets feature
    """Return what a column of lists holds in each; None if it is no list."""
    if isinstance(feature, list):
        return feature[0]
    inner = getattr(feature, "feature", None)
    return inner if not isinstance(feature, Mapping) else None


def _may_hold_images(feature: Any) -> bool:  # noqa: ANN401 - any kind of datasets feature
    import datasets

    feature = _item(feature) or feature
    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, Mapping):
        return "bytes" in feature or "path" in feature
    kind = getattr(feature, "dtype", "")
    return kind in ("binary", "large_binary", "string", "large_string")


def reaching(source: str, call: Callable[[], T], after: int | None = None) -> T:
    """Call into the library and turn its many errors into one sentence."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import errors
    from pyarrow import ArrowException

    try:
        return call()
    except (DatasetNotFoundError, errors.RepositoryNotFoundError) as error:
        raise SourceError(
            f"There is no folder {source}, and no dataset of that name on the Hugging Face Hub "
            "that may be read without signing in."
        ) from error
    except (*_UNREADABLE, DatasetsError, ArrowException, errors.HTTPError) as error:
        where = "" if after is None else f" after {after:,} rows"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if choices := _SEVERAL_SUBSETS.search(reason):
            names = choices[1].replace("'", "")
            raise SourceError(
                f"{source} has several configurations; choose by --subset: {names}."
            ) from error
        opened = after is not None or Path(source).exists()
        what = (
            f"The dataset {source}" if opened else f"There is no folder {source}, and the dataset"
        )
        raise SourceError(f"{what} could not be read{where} ({reason}).") from error
