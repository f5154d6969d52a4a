"""Building a gallery: decode, thumbnail, caption, embed, shard by shard, then publish whole."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.config import Settings, get_settings
from core.errors import GalleryError, SourceError
from core.gallery.copies import CopiesFolder
from core.models.devices import give_back_memory, resolve_device
from core.models.profiles import Models
from core.models.text_reader import TextReader
from precompute.build.assemble import Assembly, assemble
from precompute.build.earlier import (
    DIGESTS_KEY,
    PLAN_KEY,
    EarlierGallery,
    digests_of,
    is_current,
    manifest_sha256,
)
from precompute.build.executors.local import make_shards
from precompute.build.executors.ranks import Ranks
from precompute.build.executors.ray_cluster import Work
from precompute.build.executors.ray_cluster import make_shards as make_on_ray
from precompute.build.plan import (
    BATCH_KEY,
    BuildOptions,
    check_apart,
    check_sizes,
    gallery_name,
    plan_of,
)
from precompute.build.report import BuildResult, report_of
from precompute.build.shards.stages import Decoding, Describing, ShardRows, of_rank, wanted
from precompute.build.workspace import REPORT_FILE, Workspace
from precompute.sources.open import open_source
from precompute.sources.types import Source

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
        What was built; None if the gallery is in place already, or for a rank that is not the
        first.

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
    workspace.check_out(overwrite=options.overwrite, updates=True)
    ranks = Ranks.join(options.device) if options.executor == "accelerate" else None
    source = open_source(options.source)
    plan = plan_of(options, source, settings)
    run = _Build(options, settings, source, workspace, models, say, reader, ranks)
    try:
        if ranks is None or ranks.number == 0:
            return run.lead(plan)
        run.follow(plan)
        return None
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
        models: Models | None,
        say: Say,
        reader: TextReader | None,
        ranks: Ranks | None,
    ) -> None:
        self._options = options
        self._settings = settings
        self._source = source
        self._workspace = workspace
        self._say = say
        self._models = models or Models(
            options.profile, device=ranks.device if ranks else options.device
        )
        self._unloads = models is None
        self._reader = reader
        self._ranks = ranks
        self._describing = self._describes(None)

    def _describes(self, earlier: EarlierGallery | None) -> Describing:
        source = self._source
        known = [earlier] if earlier is not None else []
        return Describing(
            self._options, source.columns, source.kind, self._models, self._reader, *known
        )

    def lead(self, plan: dict[str, Any]) -> BuildResult | None:
        """Build, alone or as the first of several ranks."""
        workspace, options = self._workspace, self._options
        with workspace.locked():
            workspace.recover()
            nothing_to_do = workspace.is_published()
            if nothing_to_do:
                workspace.tidy()
            else:
                workspace.check_out(overwrite=options.overwrite, updates=True)
                if workspace.has_gallery() and not options.overwrite:
                    nothing_to_do = is_current(workspace.out, plan, REPORT_FILE)
                    plan = {**plan, PLAN_KEY: manifest_sha256(workspace.out)}
            if not nothing_to_do:
                plan = self._with_batch(plan)
                self._begin(plan)
            if self._ranks:
                self._ranks.wait()
            result = None if nothing_to_do else self._run(plan)
        if self._ranks:
            self._ranks.leave()
        return result

    def follow(self, plan: dict[str, Any]) -> None:
        """Make the shards of one rank that is not the first, which has made all ready."""
        assert self._ranks is not None
        self._ranks.wait()
        found = self._workspace.plan()
        plan = {**plan, **{key: found[key] for key in (PLAN_KEY, BATCH_KEY) if key in found}}
        self._take_batch(plan)
        if self._workspace.holds(plan):
            self._make_shards(plan, self._workspace.finished(), 0)
            self._ranks.wait()
        self._ranks.leave()

    def _with_batch(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Name the size of batches in a plan that leaves it to the GPU: once for all shards.

        An unfinished build of the same plan goes on with the one that it began with.
        """
        options = self._options
        if not options.grow_batch or (device := resolve_device(self._models.device)) == "cpu":
            return plan
        known = {**plan, BATCH_KEY: self._workspace.plan().get(BATCH_KEY)}
        if not self._workspace.holds(known):
            # All that are tried have twice the pictures of the largest: a twentieth of the work.
            few = options.shard_size if self._source.total is None else self._source.total // 40
            most = min(options.shard_size, few)
            known[BATCH_KEY] = self._describing.fastest_batch(device, most)
            self._say(f"Batches of {known[BATCH_KEY]} pictures.")
        self._take_batch(known)
        return known

    def _take_batch(self, plan: dict[str, Any]) -> None:
        if BATCH_KEY in plan:
            self._options = replace(self._options, batch_size=plan[BATCH_KEY])
            self._describing = self._describes(None)

    def _begin(self, plan: dict[str, Any]) -> None:
        """Take up an unfinished build of the same plan, or start."""
        found = self._workspace.plan()
        if found and not self._workspace.holds(plan) and self._options.executor != "ray":
            # Before an older unfinished build is thrown away: a missing model then costs nothing.
            # Else all ranks load theirs at the same time, with their first pictures.
            self._describing.try_models()
        differs = self._workspace.begin(plan)
        if differs:
            self._say(
                f"The unfinished build of {self._options.out.name} had another "
                f"{', '.join(differs)}: starting over."
            )

    def _run(self, plan: dict[str, Any]) -> BuildResult:
        """Make the shards that are left, then put the gallery together and in place."""
        done = self._workspace.finished()
        for remark in self._source.remarks:
            self._say(remark)
        resumed = sum(done.values())
        if resumed:
            self._say(f"Going on after {resumed:,} rows of an interrupted build.")
        started = time.perf_counter()
        made = self._make_shards(plan, done, resumed)
        if self._ranks:
            self._ranks.wait()
            made = self._workspace.finished()
        seconds = time.perf_counter() - started
        if self._unloads:
            self._models.unload_idle(0)  # what follows needs text encoders at most
        whole = assemble(self._workspace, len(done | made), self._source)
        result = BuildResult(
            images=len(whole.records),
            skipped=tuple(whole.skipped),
            duplicates=tuple(item for item in whole.duplicates if not item.is_row),
            notes=tuple(whole.notes),
            resumed_rows=resumed,
            seconds=seconds,
            images_per_second=(whole.rows - resumed) / max(seconds, 1e-9),
            merged_rows=sum(item.is_row for item in whole.duplicates),
        )
        if not result.images:
            self._refuse_empty(result)
        self._check_captions(whole)
        self._write(plan, whole, result)
        self._workspace.publish()
        return result

    def _make_shards(
        self, plan: dict[str, Any], done: dict[int, int], resumed: int
    ) -> dict[int, int]:
        options, ranks = self._options, self._ranks
        updates = PLAN_KEY in plan
        numbers = wanted(done, options.shard_size)
        if ranks:
            ranks.wait()  # all have seen what is done: from now on there is more
            total = self._source.total
            numbers = of_rank(done, options.shard_size, total, ranks.number, ranks.count)
        with self._bar(resumed) as advance:
            if options.executor == "ray":
                work = Work(options, self._settings, self._workspace.out, updates)
                return make_on_ray(numbers, work, advance)
            earlier = EarlierGallery(self._workspace.out, options.profile) if updates else None
            self._describing = self._describes(earlier)
            return make_shards(
                numbers,
                ShardRows(self._source, options.shard_size),
                Decoding(options, self._settings, self._source),
                self._describing,
                self._workspace,
                shard_size=options.shard_size,
                window=2 * options.batch_size,
                advance=advance,
            )

    @contextmanager
    def _bar(self, resumed: int) -> Iterator[Callable[[int], object]]:
        from tqdm import tqdm

        with tqdm(
            desc=self._options.out.name,
            total=self._source.total,
            initial=resumed,
            unit="image",
            mininterval=0.5,
            disable=not self._options.progress or (self._ranks is not None and self._ranks.number),
        ) as bar:
            yield bar.update

    def _check_captions(self, whole: Assembly) -> None:
        """Say how many pictures got no caption from a column that was named.

        Raises:
            SourceError: The captions that are searched were to come from it, and there is none.
        """
        columns, asked = self._source.columns, self._options.source
        count = len(whole.records)
        given = referred = 0
        for record in whole.records:
            given += bool(record.caption)
            referred += bool(record.references)
        if columns.given is not None and not given:
            self._workspace.discard()
            raise SourceError(
                f"No caption came out of the column {columns.given.name!r}: it is blank for all "
                f"{count:,} pictures that could be read. Name another with --captions-from."
            )
        for named, column, found in (
            (asked.captions_from, columns.given, given),
            (asked.caption_column, columns.references, referred),
        ):
            if named is None or column is None or found == count:
                continue
            few = f"{count - found:,} of {count:,} pictures have no caption in it"
            self._say(
                f"The column {column.name!r} gave no caption at all."
                if not found
                else f"The column {column.name!r}: {few}."
            )

    def _write(self, plan: dict[str, Any], whole: Assembly, result: BuildResult) -> None:
        from core.gallery.manifest import Counts, ModelRef, SourceRef
        from core.gallery.writer import write_gallery
        from core.map.stored import write_map
        from precompute.build.index_command import query_texts

        options, profile = self._options, self._options.profile
        records = whole.records
        report = report_of(self._source.name, profile.name, result, records)
        self._workspace.write_report(
            {**report, "remarks": list(self._source.remarks), DIGESTS_KEY: digests_of(plan)}
        )
        describer = self._describing.describer
        embeddings = records.write_embeddings(self._workspace.root, describer)
        maps = write_map(
            self._workspace.gallery, records, embeddings["captions"], embeddings["clip"]
        )
        give_back_memory()  # t-SNE's, of which nothing below has any use
        columns = self._source.columns
        column = columns.given or columns.references
        write_gallery(
            self._workspace.gallery,
            name=gallery_name(self._workspace.out),
            records=records,
            caption_embeddings=embeddings["captions"],
            clip_embeddings=embeddings["clip"],
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
            texts=query_texts(describer.sentence, describer.clip, records),
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
