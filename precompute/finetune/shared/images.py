"""The images of a training: captioned and unlabelled ones in one row, their views, their pixels."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL.Image import Resampling, Transpose

from core.config import get_settings
from core.errors import SourceError
from core.images.decode import DecodeLimits, decode
from precompute.sources.folder import FolderSource
from precompute.sources.types import SourceOptions

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SMALLEST_CROP = 0.5
"""Smallest share of the area that a cropped view keeps."""

_KEPT_BYTES = 4 << 30
_SPARE = 1.5
"""Kept images are so much larger than the tower's input, so that crops of them stay sharp."""


class Images(Protocol):
    """A sequence of images that are decoded when asked for; :class:`~.data.Pairs` is one."""

    @property
    def name(self) -> str:
        """What a report calls them."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of names and sizes in bytes."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def file_name(self, row: int) -> str:
        """Return what the source calls an image."""
        ...

    def image(self, row: int) -> Image:
        """Decode one image into RGB."""
        ...


@dataclass(frozen=True, slots=True)
class FolderImages:
    """The images of a folder and its sub-folders, without captions.

    Attributes:
        paths: The files.
        names: Their names relative to the folder.
        name: The folder's own name.
        fingerprint: A digest of names and sizes in bytes.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    name: str
    fingerprint: str

    @classmethod
    def read(cls, folder: Path) -> FolderImages:
        """List a folder; open no image.

        Raises:
            SourceError: There is no such folder, or no file in it.
        """
        if not folder.is_dir():
            raise SourceError(f"There is no folder {folder}.")
        source = FolderSource(folder, SourceOptions(str(folder)))
        found = [row for row in source.read(0) if isinstance(row.content, Path)]
        names = tuple(row.file_name for row in found)
        paths = tuple(row.content for row in found if isinstance(row.content, Path))
        digest = hashlib.sha256()
        for name, path in zip(names, paths, strict=True):
            digest.update(f"{name}:{path.stat().st_size}\n".encode())
        return cls(paths, names, source.name, digest.hexdigest()[:16])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def file_name(self, row: int) -> str:
        """Return an image's name relative to the folder."""
        return self.names[row]

    def image(self, row: int) -> Image:
        """Decode one image.

        Raises:
            ImageError: It cannot be decoded.
        """
        limits = DecodeLimits.of(get_settings())
        return decode(self.paths[row], self.names[row], limits).image


@dataclass(frozen=True, slots=True)
class Joined:
    """Several sources of images, one after the other."""

    parts: tuple[Images, ...]

    @property
    def name(self) -> str:
        """All their names."""
        return " + ".join(part.name for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """A digest of all theirs."""
        return hashlib.sha256(" ".join(p.fingerprint for p in self.parts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(map(len, self.parts))

    def file_name(self, row: int) -> str:
        """Return what its source calls an image."""
        part, inner = self._find(row)
        return part.file_name(inner)

    def image(self, row: int) -> Image:
        """Decode one image."""
        part, inner = self._find(row)
        return part.image(inner)

    def _find(self, row: int) -> tuple[Images, int]:
        for part in self.parts:
            if row < len(part):
                return part, row
            row -= len(part)
        raise IndexError(row)


def view_of(image: Image, view: int, seed: Sequence[int]) -> Image:
    """Return one of the fixed views of an image.

    Args:
        image: Any size.
        view: 0 is the image as it is searched, 1 its mirror image, every further number a random
            crop, mirrored half of the time.
        seed: Fixes the crop.
    """
    import numpy as np

    if view == 0:
        return image
    if view == 1:
        return image.transpose(Transpose.FLIP_LEFT_RIGHT)
    random = np.random.default_rng(seed)
    # Both sides shrink on their own, so the area and the aspect vary together.
    shares = np.sqrt(random.uniform(SMALLEST_CROP, 1, 2))
    width, height = (
        max(1, round(side * share)) for side, share in zip(image.size, shares, strict=True)
    )
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    image = image.crop((left, top, left + width, top + height))
    return image.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


class PixelReader:
    """Reads views as the tower's input, on threads and ahead of the training.

    Each image is decoded once where memory allows: reduced to what crops need, it is kept.

    Args:
        images: What to read.
        preprocess: Maps an RGB image to float pixels (3, height, width).
        size_px: Shorter side of the tower's input.
        seed: Fixes the crops.
        workers: Threads.
        kept_bytes: Most memory of the images that are kept.
    """

    def __init__(
        self,
        images: Images,
        preprocess: Callable[[Image], torch.Tensor],
        size_px: int,
        *,
        seed: int,
        workers: int = 1,
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        """Read nothing yet."""
        self._images = images
        self._preprocess = preprocess
        self._size_px = size_px
        self._seed = seed
        self._workers = workers
        self._free_bytes = kept_bytes
        self._kept: dict[int, Image] = {}
        self._lock = threading.Lock()

    def __call__(
        self, batches: Iterable[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[torch.Tensor]:
        """Yield float32 (n, 3, height, width) for each batch of rows and views, in order.

        Raises:
            ImageError: An image cannot be decoded.
        """
        waiting: deque[list[Future[torch.Tensor]]] = deque()
        pool = ThreadPoolExecutor(self._workers)
        try:
            for rows, views in batches:
                waiting.append(
                    [pool.submit(self._read, r, v) for r, v in zip(rows, views, strict=True)]
                )
                if len(waiting) > 1:
                    yield self._stack(waiting.popleft())
            while waiting:
                yield self._stack(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    @staticmethod
    def _stack(waiting: Iterable[Future[torch.Tensor]]) -> torch.Tensor:
        import torch

        pixels = torch.stack([item.result() for item in waiting])
        # Convolutions run up to twice as fast with the channels innermost.
        return pixels.contiguous(memory_format=torch.channels_last)

    def _read(self, row: int, view: int) -> torch.Tensor:
        return self._preprocess(view_of(self._reduced(row), view, [self._seed, view, row]))

    def _reduced(self, row: int) -> Image:
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        image = self._images.image(row)
        scale = self._size_px * _SPARE / min(image.size)
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Resampling.BICUBIC)
        size = image.width * image.height * 4  # Pillow keeps RGB in four bytes
        with self._lock:
            if size <= self._free_bytes:
                self._free_bytes -= size
                self._kept[row] = image
        return image
