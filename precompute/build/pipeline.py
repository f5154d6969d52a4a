"""Building a gallery: decode, thumbnail, caption, embed, shard by shard, then publish whole."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from core.config import Settings, get_settings
from core.describing import Describer, record_of
from core.errors import GalleryError, ModelError, SourceError
from core.gallery.copies import CopiesFolder, CopySizes
from core.images.decode import DecodeLimits
from core.models.profiles import Models
from core.models.text_reader import TextReader
from core.records import Caption, ImageRecord
from precompute.build.pictures import (
    Picture,
    ahead,
    given_caption,
    prepare,
    text_fields,
    with_duplicates,
)
from precompute.build.plan import (
    BuildOptions,
    check_apart,
    check_sizes,
    gallery_name,
    large_px,
    plan_of,
)
from precompute.build.report import BuildResult, report_of
from precompute.build.shard import Duplicate, Note, Shard, Skipped
from precompute.build.workspace import REPORT_FILE, Workspace
from precompute.sources.open import open_source
from precompute.sources.types import Source, SourceImage

if TYPE_CHECKING:
    import numpy as np

_WRITING_FAILED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG),
}

Say = Callable[[str], None]


def build(
    options: BuildOptions,
    *,
    settings: Settings | None = None,
    models: Models | None = None,
    say: Say = lambda _: None,
) -> BuildResult | None:
    """Build a gallery, or go on with a build of the same plan that was interrupted.

    Args:
        options: What to build.
        settings: Limits of decoding and size of thumbnails; None reads the environment.
        models: Of ``options.profile``, if they are in memory already.
        say: Receives a sentence for the operator now and then.

    Returns:
        What was built; None if an interrupted run had already put the gallery in place.

    Raises:
        SourceError: The source cannot be read as asked, or holds no usable image.
        GalleryError: The output cannot be written, exists, or is being built by another process.
        ModelError: A model is missing or cannot run.
    """
    settings = settings or get_settings()
    check_sizes(options)
    reader = TextReader() if options.read_text else None
    workspace = Workspace(_resolved(options.out))
    check_apart(options.source.source, workspace.out)
    workspace.check_out(overwrite=options.overwrite)
    source = open_source(options.source)
    plan = plan_of(options, source, settings)
    try:
        with workspace.locked():
            workspace.recover()
            if workspace.is_published():
                workspace.tidy()
                return None
            workspace.check_out(overwrite=options.overwrite)
            models = models or Models(options.profile, device=options.device)
            return _Build(options, settings, source, workspace, models, say, reader).run(plan)
    except OSError as error:
        if error.errno not in _WRITING_FAILED:
            raise
        raise GalleryError(
            options.out,
            f"{options.out} cannot be written ({error.strerror or error}). Finished shards are "
            "kept: the same command resumes from there.",
        ) from error


def _resolved(out: Path) -> Path:
    try:
        return out.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, an unknown ~user
        raise GalleryError(out, f"{out} cannot be a gallery's folder ({error}).") from error


class _Build:
    """One run over what is left of a source."""

    def __init__(
        self,
        options: BuildOptions,
        settings: Settings,
        source: Source,
        workspace: Workspace,
        models: Models,
        say: Say,
        reader: TextReader | None,
    ) -> None:
        self._options = options
        self._settings = settings
        self._source = source
        self._workspace = workspace
        self._say = say
        self._reader = reader
        self._describer = Describer(
            models.captioner, models.sentence, models.clip, options.captions_per_image
        )
        self._limits = DecodeLimits.of(settings)
        self._names_by_sha: dict[str, str] = {}

    def run(self, plan: dict[str, Any]) -> BuildResult:
        """Do the rows that are left, then put the gallery together and in place."""
        if not self._workspace.holds(plan):
            # Before an older unfinished build is thrown away: a missing model then costs nothing.
            self._try_models()
        differs = self._workspace.begin(plan)
        if differs:
            self._say(
                f"The unfinished build of {self._options.out.name} had another "
                f"{', '.join(differs)}: starting over."
            )
        shards = self._workspace.finished()
        for remark in self._source.remarks:
            self._say(remark)
        resumed = sum(shard.rows for shard in shards)
        if resumed:
            self._say(f"Going on after {resumed:,} rows of an interrupted build.")
        for shard in shards:
            self._names_by_sha |= {record.sha256: record.file_name for record in shard.records}
        started = time.perf_counter()
        shards += self._new_shards(len(shards), resumed)
        done = sum(shard.rows for shard in shards) - resumed
        speed = done / max(time.perf_counter() - started, 1e-9)
        duplicates = [item for shard in shards for item in shard.duplicates]
        result = BuildResult(
            images=sum(len(shard.records) for shard in shards),
            skipped=tuple(item for shard in shards for item in shard.skipped),
            duplicates=tuple(item for item in duplicates if not item.is_row),
            notes=tuple(item for shard in shards for item in shard.notes),
            resumed_rows=resumed,
            seconds=time.perf_counter() - started,
            images_per_second=speed,
            merged_rows=sum(item.is_row for item in duplicates),
        )
        if not result.images:
            self._refuse_empty(result)
        stored = [record for shard in shards for record in shard.records]
        records = with_duplicates(stored, duplicates)
        self._check_captions(records)
        captions = self._caption_embeddings(len(shards), stored, records)
        self._assemble(len(shards), records, captions, result)
        self._workspace.publish()
        return result

    def _try_models(self) -> None:
        blank = Image.new("RGB", (64, 64))
        given = None if self._options.source.captions_from is None else [Caption("")]
        self._describer.describe([blank], given)

    def _new_shards(self, number: int, start: int) -> Iterator[Shard]:
        from tqdm import tqdm

        large = large_px(self._options, self._source, self._settings)
        sizes = CopySizes(self._settings.thumbnail_px, large)

        def ready(row: SourceImage, stop: threading.Event) -> Picture | Skipped:
            return prepare(row, self._limits, sizes, stop)

        prepared = ahead(self._source.read(start), ready, 2 * self._options.batch_size)
        bar = tqdm(
            desc=self._options.out.name,
            total=self._source.total,
            initial=start,
            unit="image",
            mininterval=0.5,
            disable=not self._options.progress,
        )
        try:
            while True:
                shard = self._shard(
                    number, islice(prepared, self._options.shard_size), lambda n: bar.update(n)
                )
                if shard.rows:
                    yield shard
                if shard.rows < self._options.shard_size:
                    return
                number += 1
        finally:
            prepared.close()
            bar.close()

    def _shard(
        self,
        number: int,
        rows: Iterable[Picture | Skipped],
        advance: Callable[[int], object],
    ) -> Shard:
        """Caption and embed one shard's rows.

        Batches never cross shards: a resumed build puts the same pictures into the same batches,
        and so gets the same bytes.
        """
        shard = Shard()
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        batch: list[Picture] = []
        waiting = 0
        for row in rows:
            shard.rows += 1
            waiting += 1
            if isinstance(row, Skipped):
                shard.skipped.append(row)
            elif (first := self._names_by_sha.get(row.decoded.sha256)) is not None:
                shard.duplicates.append(self._duplicate(row, first))
            else:
                self._names_by_sha[row.decoded.sha256] = row.row.file_name
                batch.append(row)
            if len(batch) == self._options.batch_size:
                parts.append(self._batch(batch, shard))
                batch = []
                advance(waiting)
                waiting = 0
        if batch:
            parts.append(self._batch(batch, shard))
        if shard.rows:
            self._keep(number, shard, parts)
        advance(waiting)
        return shard

    def _duplicate(self, picture: Picture, first: str) -> Duplicate:
        """Return what an earlier picture gets of a row with the same bytes: its captions."""
        row, columns = picture.row, self._source.columns
        references = row.references
        if row.given_caption and columns.given_is_reference:
            references = (row.given_caption, *references)
        another_row = self._source.kind == "dataset" and bool(references)
        return Duplicate(
            row.file_name,
            first,
            picture.decoded.id,
            references,
            row.given_caption or "",
            is_row=another_row or row.file_name == first,
        )

    def _batch(self, batch: list[Picture], shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        given = None
        if self._options.source.captions_from is not None:
            given = [given_caption(picture.row) for picture in batch]
        described = self._describer.describe([picture.decoded.image for picture in batch], given)
        for picture, captions in zip(batch, described.captions, strict=True):
            row = picture.row
            record = replace(
                record_of(picture.decoded, row.file_name, captions),
                references=row.references,
                license=row.license,
                source_url=row.source_url,
                **text_fields(picture, self._reader),
            )
            picture.copies.write(self._workspace.copies, record.id, sync=True)
            shard.records.append(record)
            shard.notes += [Note(record.file_name, note) for note in picture.decoded.notes]
        return described.caption_embeddings, described.clip_embeddings

    def _keep(self, number: int, shard: Shard, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        import numpy as np

        profile = self._options.profile
        no_captions = np.zeros((0, profile.sentence.dim or 0), np.float32)
        no_clip = np.zeros((0, profile.clip.dim or 0), np.float32)
        captions = np.concatenate([no_captions, *(part[0] for part in parts)])
        clip = np.concatenate([no_clip, *(part[1] for part in parts)])
        if not (np.isfinite(captions).all() and np.isfinite(clip).all()):
            raise ModelError("A model gave embeddings that are not numbers.")
        self._workspace.write_shard(number, shard, {"captions": captions, "clip": clip})

    def _check_captions(self, records: list[ImageRecord]) -> None:
        """Say how many pictures got no caption from a column that was named.

        Raises:
            SourceError: The captions that are searched were to come from it, and there is none.
        """
        columns, asked = self._source.columns, self._options.source
        given = sum(bool(record.caption) for record in records)
        if columns.given is not None and not given:
            self._workspace.discard()
            raise SourceError(
                f"No caption came out of the column {columns.given.name!r}: it is blank for all "
                f"{len(records):,} pictures that could be read. Name another with --captions-from."
            )
        referred = sum(bool(record.references) for record in records)
        for named, column, count in (
            (asked.captions_from, columns.given, given),
            (asked.caption_column, columns.references, referred),
        ):
            if named is None or column is None or count == len(records):
                continue
            few = f"{len(records) - count:,} of {len(records):,} pictures have no caption in it"
            self._say(
                f"The column {column.name!r} gave no caption at all."
                if not count
                else f"The column {column.name!r}: {few}."
            )

    def _caption_embeddings(
        self, shards: int, stored: list[ImageRecord], records: list[ImageRecord]
    ) -> np.ndarray:
        """Return those of the shards, with the captions embedded that duplicates added."""
        found = self._workspace.embeddings("captions", shards, self._options.profile.sentence.dim)
        pairs = enumerate(zip(stored, records, strict=True))
        # A given caption has one row.
        changed = [row for row, (before, after) in pairs if before.caption != after.caption]
        if changed:
            texts = [records[row].caption for row in changed]
            found[changed] = self._describer.sentence.encode_text(texts)
        return found

    def _assemble(
        self, shards: int, records: list[ImageRecord], captions: np.ndarray, result: BuildResult
    ) -> None:
        from core.gallery.manifest import Counts, ModelRef, SourceRef
        from core.gallery.writer import write_gallery
        from core.map.stored import write_map
        from precompute.build.index_command import query_texts

        options, profile = self._options, self._options.profile
        report = report_of(self._source.name, profile.name, result, records)
        self._workspace.write_report({**report, "remarks": list(self._source.remarks)})
        clip = self._workspace.embeddings("clip", shards, profile.clip.dim)
        maps = write_map(self._workspace.gallery, records, captions, clip)
        columns = self._source.columns
        column = columns.given or columns.references
        write_gallery(
            self._workspace.gallery,
            name=gallery_name(self._workspace.out),
            records=records,
            caption_embeddings=captions,
            clip_embeddings=clip,
            copies=CopiesFolder(self._workspace.copies),
            profile=profile,
            source=SourceRef(
                kind=self._source.kind,
                id=self._source.name,
                split=self._source.split,
                revision=self._source.revision,
                image_column=columns.image,
                caption_column=column.name if column else None,
                limit=options.source.limit,
            ),
            caption_origin=f"column:{columns.given.name}" if columns.given else "generated",
            captions_per_image=options.captions_per_image,
            caption_pooling=options.caption_pooling,
            text_reader=ModelRef.of_package(self._reader) if self._reader else None,
            counts=Counts(
                images=len(records),
                duplicates=len(result.duplicates),
                skipped=len(result.skipped),
            ),
            extra_files=(REPORT_FILE, *maps),
            indexes=options.index,
            texts=query_texts(self._describer.sentence, self._describer.clip, records),
        )

    def _refuse_empty(self, result: BuildResult) -> None:
        self._workspace.discard()
        if not result.skipped:
            raise SourceError(f"{self._options.source.source} holds no image.")
        first = result.skipped[0]
        raise SourceError(
            f"{self._options.source.source} holds no usable image: {len(result.skipped):,} files "
            f"were looked at, and the first, {first.file_name}, {first.reason}."
        )
