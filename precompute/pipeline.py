"""Building a gallery: decode, thumbnail, caption, embed, shard by shard, then publish whole."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from core.config import Settings, get_settings
from core.errors import GalleryError, ImageError, ModelError, SourceError
from core.images import WORKING_PX, DecodedImage, DecodeLimits, decode, thumbnail_webp
from core.profiles import Models, Profile
from core.records import Caption, ImageRecord
from core.weights import revision_of
from precompute.shards import REPORT_FILE, Duplicate, Note, Shard, Skipped, Workspace
from precompute.sources import Source, SourceImage, SourceOptions, open_source

if TYPE_CHECKING:
    import numpy as np

BATCH_SIZE = 8
SHARD_SIZE = 64
_MAX_DECODERS = 4
_ID_DIGITS = 16
# Another version may decode, tokenize or multiply differently: half a gallery is never mixed.
_PINNED = ("torch", "transformers", "open_clip_torch", "sentence-transformers", "pillow", "numpy")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build.

    Attributes:
        source: Where the pictures come from.
        out: Folder that the gallery will be.
        profile: Models that caption and embed.
        batch_size: Pictures a model sees at once.
        shard_size: Rows after which progress is kept; at most that many are done twice.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        overwrite: Replace an existing gallery once the new one is complete.
        progress: Whether to draw a progress bar on the standard error.
    """

    source: SourceOptions
    out: Path
    profile: Profile
    batch_size: int = BATCH_SIZE
    shard_size: int = SHARD_SIZE
    device: str = "auto"
    overwrite: bool = False
    progress: bool = True


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made of its source.

    Attributes:
        images: Pictures in the gallery.
        skipped: Files that could not be used.
        duplicates: Files whose bytes had been stored before.
        notes: Remarks about pictures that were taken.
        resumed_rows: Rows that an earlier, interrupted run had done.
        seconds: Time of this run.
        images_per_second: Of this run, over the rows it did itself.
    """

    images: int
    skipped: tuple[Skipped, ...]
    duplicates: tuple[Duplicate, ...]
    notes: tuple[Note, ...]
    resumed_rows: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class _Picture:
    row: SourceImage
    decoded: DecodedImage
    thumbnail: bytes


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
    _check_sizes(options)
    workspace = Workspace(options.out.expanduser().resolve())
    _check_apart(options.source.source, workspace.out)
    workspace.check_out(overwrite=options.overwrite)
    source = open_source(options.source)
    plan = _plan(options, source, settings)
    try:
        with workspace.locked():
            workspace.recover()
            if workspace.is_published():
                workspace.tidy()
                return None
            workspace.check_out(overwrite=options.overwrite)
            models = models or Models(options.profile, device=options.device)
            return _Build(options, settings, source, workspace, models, say).run(plan)
    except OSError as error:
        raise GalleryError(
            options.out,
            f"{options.out} cannot be written ({error.strerror or error}). Finished shards are "
            "kept: the same command goes on from there.",
        ) from error


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
    ) -> None:
        self._options = options
        self._settings = settings
        self._source = source
        self._workspace = workspace
        self._say = say
        self._models = models
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
        resumed = sum(shard.rows for shard in shards)
        if resumed:
            self._say(f"Going on after {resumed:,} rows of an interrupted build.")
        for shard in shards:
            self._names_by_sha |= {record.sha256: record.file_name for record in shard.records}
        started = time.perf_counter()
        shards += self._new_shards(len(shards), resumed)
        done = sum(shard.rows for shard in shards) - resumed
        speed = done / max(time.perf_counter() - started, 1e-9)
        result = BuildResult(
            images=sum(len(shard.records) for shard in shards),
            skipped=tuple(item for shard in shards for item in shard.skipped),
            duplicates=tuple(item for shard in shards for item in shard.duplicates),
            notes=tuple(item for shard in shards for item in shard.notes),
            resumed_rows=resumed,
            seconds=time.perf_counter() - started,
            images_per_second=speed,
        )
        if not result.images:
            self._refuse_empty(result)
        self._assemble(shards, result)
        self._workspace.publish()
        return result

    def _try_models(self) -> None:
        blank = Image.new("RGB", (64, 64))
        self._models.sentence.encode_text([""])
        self._models.clip.encode_image([blank])
        if self._options.source.captions_from is None:
            self._models.captioner.caption([blank])

    def _new_shards(self, number: int, start: int) -> Iterator[Shard]:
        from tqdm import tqdm

        rows = self._source.read(start)
        prepared = _ahead(rows, self._prepare, 2 * self._options.batch_size)
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
        rows: Iterable[_Picture | Skipped],
        advance: Callable[[int], object],
    ) -> Shard:
        """Caption and embed one shard's rows.

        Batches never cross shards: a resumed build puts the same pictures into the same batches,
        and so gets the same bytes.
        """
        shard = Shard()
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        batch: list[_Picture] = []
        waiting = 0
        for row in rows:
            shard.rows += 1
            waiting += 1
            if isinstance(row, Skipped):
                shard.skipped.append(row)
            elif (first := self._names_by_sha.get(row.decoded.sha256)) is not None:
                shard.duplicates.append(Duplicate(row.row.file_name, first))
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

    def _batch(self, batch: list[_Picture], shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        images = [picture.decoded.image for picture in batch]
        if self._options.source.captions_from is None:
            captions = self._models.captioner.caption(images)
        else:
            captions = [_given(picture.row) for picture in batch]
        for picture, caption in zip(batch, captions, strict=True):
            record = _record(picture, caption)
            self._workspace.write_thumbnail(record.id, picture.thumbnail)
            shard.records.append(record)
            shard.notes += [Note(record.file_name, note) for note in picture.decoded.notes]
        texts = [caption.text for caption in captions]
        return self._models.sentence.encode_text(texts), self._models.clip.encode_image(images)

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

    def _prepare(self, row: SourceImage) -> _Picture | Skipped:
        """Decode one row and make its thumbnail; runs on the decoding threads."""
        try:
            if row.content is None:
                return Skipped(row.file_name, row.problem)
            content = row.content
            if not isinstance(content, (bytes, Path)):
                content = content(self._limits.max_bytes)
            decoded = decode(content, row.file_name, self._limits)
        except ImageError as error:
            return Skipped(row.file_name, error.reason)
        return _Picture(row, decoded, thumbnail_webp(decoded.image, self._settings.thumbnail_px))

    def _assemble(self, shards: list[Shard], result: BuildResult) -> None:
        from core.gallery_writer import write_gallery
        from core.manifest import Counts, SourceRef

        options, profile = self._options, self._options.profile
        records = [record for shard in shards for record in shard.records]
        self._workspace.write_report(_report(options, result, records))
        columns = self._source.columns
        write_gallery(
            self._workspace.gallery,
            name=_gallery_name(self._workspace.out),
            records=records,
            caption_embeddings=self._workspace.embeddings(
                "captions", len(shards), profile.sentence.dim or 0
            ),
            clip_embeddings=self._workspace.embeddings("clip", len(shards), profile.clip.dim or 0),
            profile=profile,
            source=SourceRef(
                kind=self._source.kind,
                id=self._source.name,
                split=options.source.split,
                revision=self._source.revision,
                image_column=columns.image,
                caption_column=columns.given or columns.references,
                limit=options.source.limit,
            ),
            caption_origin=f"column:{columns.given}" if columns.given else "generated",
            counts=Counts(
                images=len(records),
                duplicates=len(result.duplicates),
                skipped=len(result.skipped),
            ),
            extra_files=(REPORT_FILE,),
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


def _ahead(
    rows: Iterator[SourceImage], prepare: Callable[[SourceImage], _Picture | Skipped], window: int
) -> Generator[_Picture | Skipped, None, None]:
    """Yield prepared rows in order, while at most ``window`` more are being decoded."""
    decoders = ThreadPoolExecutor(min(_MAX_DECODERS, os.cpu_count() or 1), "decode")
    pending: deque[Future[_Picture | Skipped]] = deque()
    try:
        for row in rows:
            pending.append(decoders.submit(prepare, row))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        decoders.shutdown(wait=False, cancel_futures=True)


def _record(picture: _Picture, caption: Caption) -> ImageRecord:
    row, decoded = picture.row, picture.decoded
    return ImageRecord(
        id=decoded.sha256[:_ID_DIGITS],
        file_name=row.file_name,
        sha256=decoded.sha256,
        width=decoded.width,
        height=decoded.height,
        caption=caption.text,
        caption_flags=caption.flags,
        confidence=caption.confidence,
        references=row.references,
        license=row.license,
        source_url=row.source_url,
    )


def _given(row: SourceImage) -> Caption:
    text = row.given_caption or ""
    return Caption(text, () if text else ("empty",))


def _check_sizes(options: BuildOptions) -> None:
    for name, size in (("--batch-size", options.batch_size), ("--shard-size", options.shard_size)):
        if size < 1:
            raise SourceError(f"{name} must be 1 or more, not {size}.")


def _check_apart(source: str, out: Path) -> None:
    folder = Path(source).expanduser()
    if not folder.exists():
        return
    folder = folder.resolve()
    if folder == out or folder in out.parents or out in folder.parents:
        raise GalleryError(
            out, f"The gallery {out} and its source {source} must not lie inside each other."
        )


def _plan(options: BuildOptions, source: Source, settings: Settings) -> dict[str, Any]:
    """Return all that the bytes of the gallery depend on."""
    from core.devices import resolve_device

    profile = options.profile
    specs = {"sentence": profile.sentence, "clip": profile.clip}
    if options.source.captions_from is None:
        specs["captioner"] = profile.captioner
    return {
        "source": {**asdict(options.source), "source": _absolute(options.source.source)},
        "content": {"fingerprint": source.fingerprint, **asdict(source.columns)},
        "profile": profile.name,
        "models": {
            role: {**asdict(spec), "revision": revision_of(spec)} for role, spec in specs.items()
        },
        "device": resolve_device(options.device),
        "batch size": options.batch_size,
        "shard size": options.shard_size,
        "decoding": {
            "working_px": WORKING_PX,
            "thumbnail_px": settings.thumbnail_px,
            **asdict(DecodeLimits.of(settings)),
        },
        "packages": {name: _version(name) for name in _PINNED},
    }


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gallery_name(out: Path) -> str:
    name = "".join(c for c in out.name if c.isprintable() and c != "\\")
    return name.strip(" .")[:100].strip(" .") or "gallery"


def _report(
    options: BuildOptions, result: BuildResult, records: list[ImageRecord]
) -> dict[str, Any]:
    flags = Counter(flag for record in records for flag in record.caption_flags)
    return {
        "source": options.source.source,
        "profile": options.profile.name,
        "counts": {
            "images": result.images,
            "duplicates": len(result.duplicates),
            "skipped": len(result.skipped),
        },
        "caption_flags": dict(sorted(flags.items())),
        "seconds": round(result.seconds, 2),
        "images_per_second": round(result.images_per_second, 2),
        "resumed_rows": result.resumed_rows,
        "skipped": [asdict(item) for item in result.skipped],
        "duplicates": [asdict(item) for item in result.duplicates],
        "notes": [asdict(item) for item in result.notes],
    }
