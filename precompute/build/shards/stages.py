"""The stages of a shard, each a pure function of it: read, decode, describe, write.

Which process makes a shard, and after which others, changes none of its bytes: its batches hold its
own pictures only, and what other shards hold of the same pictures is settled once all are there
(:mod:`precompute.build.assemble`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from PIL import Image

from core.describing import Describer, record_of
from core.errors import ModelError
from core.gallery.copies import Copies, CopySizes
from core.images.decode import WORKING_PX, DecodeLimits
from core.records import Caption, ImageRecord, Lens
from precompute.build.plan import BuildOptions, large_px
from precompute.build.shards.memory import (
    FittingBatches,
    fastest_batch,
    forget_peak,
    twice_fits_gpu,
)
from precompute.build.shards.pictures import Picture, given_caption, prepare, text_fields
from precompute.build.shards.shard import Note, Shard, Skipped, duplicate_of

if TYPE_CHECKING:
    import numpy as np

    from core.config import Settings
    from core.models.profiles import Models
    from core.models.text_reader import TextReader
    from precompute.build.workspace import Workspace
    from precompute.sources.types import Columns, Source, SourceImage

LEAST_BATCH = 4
"""Rows that the encoders are given at least: products of fewer are rounded in another order."""


def wanted(
    done: Mapping[int, int], shard_size: int, first: int = 0, step: int = 1
) -> Iterator[int]:
    """Yield the numbers of shards to make, up to the end of the source if that is known.

    Args:
        done: Rows of the finished shards by number.
        shard_size: Rows of a whole shard; one with fewer is the last.
        first: The first number.
        step: From a number to the next.
    """
    for number in count(first, step):
        rows = done.get(number)
        if rows is None:
            yield number
        elif rows < shard_size:
            return


def of_rank(
    done: Mapping[int, int], shard_size: int, total: int | None, rank: int, ranks: int
) -> Iterator[int]:
    """Yield the numbers of the shards that one of several ranks makes.

    Where the source says how many rows it has, they follow on each other: what a stream holds
    before and after them is not read. Else they are every n-th.

    Args:
        done: Rows of the finished shards by number; the same for all ranks.
        shard_size: Rows of a whole shard; one with fewer is the last.
        total: Rows of the source, if that is known.
        rank: From 0.
        ranks: Of all.
    """
    if total is None:
        yield from wanted(done, shard_size, rank, ranks)
        return
    end = -(-total // shard_size)
    left = [number for number in range(end) if number not in done]
    yield from left[len(left) * rank // ranks : len(left) * (rank + 1) // ranks]
    if rank == ranks - 1:  # a source may have more rows than it says
        yield from wanted(done, shard_size, end)


class ShardRows:
    """Reads the rows of shards by number.

    A source is read on from where the last shard ended, unless it can be entered further on.

    Args:
        source: The rows.
        shard_size: Rows of a shard.
    """

    def __init__(self, source: Source, shard_size: int) -> None:
        """Read nothing yet."""
        self._source, self._size = source, shard_size
        self._at = 0
        self._rows: Iterator[SourceImage] | None = None

    def __call__(self, number: int) -> list[SourceImage]:
        """Return a shard's rows: fewer than a shard's for the last one, none after it.

        Raises:
            SourceError: The source stopped answering.
        """
        start = number * self._size
        ahead = start > self._at and self._source.entry(start) > self._at
        if self._rows is None or start < self._at or ahead:
            self._rows, self._at = iter(self._source.read(start)), start
        rows = list(islice(self._rows, start - self._at, start - self._at + self._size))
        self._at = start + self._size
        return rows


@dataclass(frozen=True, slots=True)
class DescribedShard:
    """A shard after its models.

    Attributes:
        shard: What became of its rows.
        captions: Embeddings of all captions, float32 (captions, dim).
        clip: Those of its pictures, float32 (pictures, dim).
    """

    shard: Shard
    captions: np.ndarray
    clip: np.ndarray


@dataclass(frozen=True, slots=True)
class OfPicture:
    """What the models say of one picture.

    Attributes:
        captions: One or more.
        caption_embeddings: float32 (captions, dim).
        clip_embedding: float32 (dim,).
        text: Fields of a record: what can be read in the picture.
    """

    captions: tuple[Caption, ...]
    caption_embeddings: np.ndarray
    clip_embedding: np.ndarray
    text: Mapping[str, Any] = field(default_factory=dict)


class Decoding:
    """The stage that turns rows into pictures; it needs no model.

    Args:
        options: Of the build.
        settings: Limits of decoding, sizes of copies.
        source: What the rows are from.
    """

    def __init__(self, options: BuildOptions, settings: Settings, source: Source) -> None:
        """Read the limits."""
        self._limits = DecodeLimits.of(settings)
        self._sizes = CopySizes(settings.thumbnail_px, large_px(options, source, settings))

    def __call__(self, row: SourceImage, stop: threading.Event) -> Picture | Skipped:
        """Decode a row; see :func:`precompute.build.shards.pictures.prepare`."""
        return prepare(row, self._limits, self._sizes, stop)


class Describing:
    """The stage that captions and embeds the pictures of a shard.

    Args:
        options: Of the build.
        columns: Of the source.
        kind: Of the source.
        models: What describes.
        reader: Reads the text in the pictures; None looks for none.
        known: Descriptions of pictures by their sha256 that are taken over.

    Attributes:
        describer: The models.
    """

    def __init__(
        self,
        options: BuildOptions,
        columns: Columns,
        kind: str,
        models: Models,
        reader: TextReader | None = None,
        known: Callable[[str, Caption | None], OfPicture | None] = lambda _, __: None,
    ) -> None:
        """Load nothing yet."""
        self._options, self._columns, self._kind = options, columns, kind
        self._reader, self._known = reader, known
        self._fitting = FittingBatches(self._describe)
        self.describer = Describer(
            models.captioner,
            models.sentence,
            models.clip,
            options.captions_per_image,
            least_batch=LEAST_BATCH,
        )

    def try_models(self) -> None:
        """Load all models and run them once.

        Raises:
            ModelError: One is missing or cannot run.
        """
        blank = Image.new("RGB", (64, 64))
        given = None if self._options.source.captions_from is None else [Caption("")]
        self.describer.describe([blank], given)

    def fastest_batch(self, device: str, most: int) -> int:
        """Return how many pictures a GPU describes fastest at once, tried with noise.

        Args:
            device: ``cuda`` or ``cuda:N``.
            most: No more than so many.

        Raises:
            ModelError: A model is missing or cannot run.
        """
        noise = Image.effect_noise((WORKING_PX, WORKING_PX), 64).convert("RGB")
        from_source = self._options.source.captions_from is not None

        def seconds(count: int) -> float:
            given = [Caption("a picture")] * count if from_source else None
            forget_peak(device)
            started = time.perf_counter()
            self.describer.describe([noise] * count, given)
            return time.perf_counter() - started

        return fastest_batch(
            seconds, self._options.batch_size, most, lambda: twice_fits_gpu(device)
        )

    def __call__(
        self,
        rows: Iterable[Picture | Skipped],
        keep: Callable[[str, Copies], object],
        advance: Callable[[int], object] = lambda _: None,
    ) -> DescribedShard:
        """Describe one shard's rows.

        Args:
            rows: All of them, in order.
            keep: Is given the id and the copies of every picture.
            advance: Is told how many more rows are done.

        Raises:
            ModelError: A model is missing or cannot run.
        """
        shard = Shard()
        found: list[OfPicture | None] = []
        names: dict[str, str] = {}
        drafts: list[ImageRecord] = []
        batch: list[Picture] = []
        places: list[int] = []
        waiting = 0
        for row in rows:
            shard.rows += 1
            waiting += 1
            if isinstance(row, Skipped):
                shard.skipped.append(row)
                continue
            sha256 = row.decoded.sha256
            if (first := names.get(sha256)) is not None:
                given = row.row.given_caption or ""
                shard.duplicates.append(
                    duplicate_of(
                        row.row.file_name,
                        first,
                        row.decoded.id,
                        row.row.references,
                        given,
                        self._columns,
                        self._kind,
                    )
                )
                continue
            names[sha256] = row.row.file_name
            keep(row.decoded.id, row.copies)
            drafts.append(_draft(row))
            shard.notes += [Note(row.row.file_name, note) for note in row.decoded.notes]
            known = self._known(sha256, self._given(row))
            found.append(known)
            if known is None:
                places.append(len(found) - 1)
                batch.append(row)
            if len(batch) == self._options.batch_size:
                for place, one in zip(places, self._fitting(batch), strict=True):
                    found[place] = one
                batch, places = [], []
                advance(waiting)
                waiting = 0
        for place, one in zip(places, self._fitting(batch) if batch else [], strict=True):
            found[place] = one
        advance(waiting)
        return self._joined(shard, drafts, [one for one in found if one is not None])

    def _given(self, picture: Picture) -> Caption | None:
        return given_caption(picture.row) if self._options.source.captions_from else None

    def _describe(self, batch: list[Picture]) -> list[OfPicture]:
        given = None
        if self._options.source.captions_from is not None:
            given = [given_caption(picture.row) for picture in batch]
        described = self.describer.describe([picture.decoded.image for picture in batch], given)
        rows = described.caption_embeddings
        result = []
        for picture, captions, clip in zip(
            batch, described.captions, described.clip_embeddings, strict=True
        ):
            own, rows = rows[: len(captions)], rows[len(captions) :]
            result.append(OfPicture(captions, own, clip, text_fields(picture, self._reader)))
        return result

    def _joined(
        self, shard: Shard, drafts: list[ImageRecord], found: list[OfPicture]
    ) -> DescribedShard:
        import numpy as np

        for draft, one in zip(drafts, found, strict=True):
            shard.records.append(_described(draft, one))
        profile = self._options.profile
        no_captions = np.zeros((0, profile.sentence.dim or 0), np.float32)
        no_clip = np.zeros((0, profile.clip.dim or 0), np.float32)
        captions = np.concatenate([no_captions, *(one.caption_embeddings for one in found)])
        clip = np.concatenate([no_clip, *(one.clip_embedding[None] for one in found)])
        if not (np.isfinite(captions).all() and np.isfinite(clip).all()):
            raise ModelError("A model gave embeddings that are not numbers.")
        return DescribedShard(shard, captions, clip)


def write(workspace: Workspace, number: int, described: DescribedShard) -> None:
    """Write a described shard, whose copies are there; the last stage."""
    arrays: dict[Lens, np.ndarray] = {"captions": described.captions, "clip": described.clip}
    workspace.write_shard(number, described.shard, arrays)


def _draft(picture: Picture) -> ImageRecord:
    row = picture.row
    return replace(
        record_of(picture.decoded, row.file_name, (Caption(""),)),
        references=row.references,
        license=row.license,
        source_url=row.source_url,
    )


def _described(draft: ImageRecord, one: OfPicture) -> ImageRecord:
    first, *more = one.captions
    return replace(
        draft,
        caption=first.text,
        caption_flags=first.flags,
        confidence=first.confidence,
        more_captions=tuple(more),
        **one.text,
    )
