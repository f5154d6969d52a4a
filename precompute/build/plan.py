"""What a build is asked for, and all that its bytes depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core.config import Settings
from core.errors import GalleryError, SourceError
from core.files import local_path
from core.gallery.manifest import FORMAT
from core.images.decode import WORKING_PX, DecodeLimits
from core.models.devices import resolve_device
from core.models.locate import revision_of
from core.models.profiles import Profile
from core.models.text_reader import READER_PACKAGE
from core.records import CaptionPooling, IndexKind
from precompute.packages import versions_of
from precompute.sources.types import Source, SourceOptions

Executor = Literal["local", "accelerate", "ray"]

BATCH_SIZE = 8
GPU_BATCH_SIZE = 32
"""As many as a captioner takes at once to begin with; halved where memory does not suffice."""
SHARD_SIZE = 64
GPU_SHARD_SIZE = 256
"""No batch is larger than its shard."""
BATCH_KEY = "batch size found"
"""Of a plan: as many pictures as the GPU of the first rank describes fastest at once."""
MAX_CAPTIONS_PER_IMAGE = 20
LARGE_UP_TO = 2_000
"""Most pictures of a source for which large copies are kept unless another number is given."""
# Another version may decode, tokenize or multiply differently: half a gallery is never mixed.
_PINNED = ("torch", "transformers", "open_clip_torch", "pillow", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build.

    Attributes:
        source: Where the pictures come from.
        out: Folder that the gallery will be.
        profile: Models that caption and embed.
        batch_size: Pictures a model sees at once.
        grow_batch: Whether a GPU is given as many more as it describes faster.
        shard_size: Rows after which progress is kept; at most that many are done twice.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        captions_per_image: Most captions generated for a picture.
        caption_pooling: How several captions of a picture are indexed.
        index: Kinds of index, the best first; none chooses by size.
        large_up_to: Most pictures of a source for which large copies are kept; 0 keeps none.
        read_text: Whether the text in the pictures is read.
        executor: What makes the shards: this process, the ranks of a launcher, or a Ray cluster.
        overwrite: Replace an existing gallery once the new one is complete.
        progress: Whether to draw a progress bar on the standard error.
    """

    source: SourceOptions
    out: Path
    profile: Profile
    batch_size: int = BATCH_SIZE
    grow_batch: bool = False
    shard_size: int = SHARD_SIZE
    device: str = "auto"
    captions_per_image: int = 1
    caption_pooling: CaptionPooling = "mean"
    index: tuple[IndexKind, ...] = ()
    large_up_to: int = LARGE_UP_TO
    read_text: bool = False
    executor: Executor = "local"
    overwrite: bool = False
    progress: bool = True


def check_sizes(options: BuildOptions) -> None:
    """Raise SourceError for a size below 1, or several captions where they are given."""
    for name, size in (
        ("--batch-size", options.batch_size),
        ("--shard-size", options.shard_size),
        ("--captions-per-image", options.captions_per_image),
    ):
        if size < 1:
            raise SourceError(f"{name} must be 1 or more, not {size}.")
    if options.captions_per_image > MAX_CAPTIONS_PER_IMAGE:
        raise SourceError(
            f"--captions-per-image must be {MAX_CAPTIONS_PER_IMAGE} or less, "
            f"not {options.captions_per_image}."
        )
    if options.captions_per_image > 1 and options.source.captions_from is not None:
        raise SourceError(
            "--captions-per-image is for captions that are generated; these are given."
        )


def check_apart(source: str, out: Path) -> None:
    """Raise GalleryError if a local source and the gallery lie inside each other."""
    folder = local_path(source)
    if not folder.exists():
        return
    folder = folder.resolve()
    if folder == out or folder in out.parents or out in folder.parents:
        raise GalleryError(
            out, f"The gallery {out} and its source {source} must not lie inside each other."
        )


def plan_of(options: BuildOptions, source: Source, settings: Settings) -> dict[str, Any]:
    """Return all that the bytes of the gallery depend on."""
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
        "device": resolve_device(options.device).partition(":")[0],
        "batch size": options.batch_size,
        "gallery format": FORMAT,
        "shard size": options.shard_size,
        "captions per image": options.captions_per_image,
        "caption pooling": options.caption_pooling,
        "index": list(options.index),
        "text reader": versions_of([READER_PACKAGE]) if options.read_text else None,
        "decoding": {
            "working_px": WORKING_PX,
            "thumbnail_px": settings.thumbnail_px,
            "large_px": large_px(options, source, settings),
            **asdict(DecodeLimits.of(settings)),
        },
        "packages": versions_of(_PINNED),
    }


def sizes_for(device: str) -> tuple[int, int]:
    """Return the sizes of batches and of shards for a device.

    Args:
        device: See :func:`core.models.devices.resolve_device`.
    """
    if resolve_device(device) == "cpu":
        return BATCH_SIZE, SHARD_SIZE
    return GPU_BATCH_SIZE, GPU_SHARD_SIZE


def large_px(options: BuildOptions, source: Source, settings: Settings) -> int | None:
    """Return the longer side of the large copies; None if the gallery is to keep none.

    A source that does not say how many pictures it has may have any number: none are kept.
    """
    few = source.total is not None and source.total <= options.large_up_to
    return settings.large_px if few else None


def _absolute(source: str) -> str:
    path = local_path(source)
    return str(path.resolve()) if path.exists() else source


def gallery_name(out: Path) -> str:
    """Return the name that the manifest gives a gallery: its folder's, made presentable."""
    name = "".join(c for c in out.name if c.isprintable() and c != "\\")
    return name.strip(" .")[:100].strip(" .") or "gallery"
