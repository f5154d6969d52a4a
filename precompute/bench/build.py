"""Speed of a build, beside that of its models alone."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import GalleryError
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import decoded_photos, packaged_photos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from core.config import ProfileName, Settings
    from core.describing import Describer
    from core.models.spec import Captioner
    from core.records import Caption


def build_speed(
    source: str | None, limit: int, name: ProfileName, settings: Settings, say: Say
) -> dict[str, Any]:
    """Time a build, then all that its models do, on the same pictures decoded before.

    Args:
        source: Photos; None takes those that ship inside installed packages.
        limit: Most pictures.
        name: Of the profile.
        settings: Device, and limits of decoding.
        say: Receives messages on progress.

    Raises:
        SourceError: The source cannot be read.
        GalleryError: There was nothing to build.
    """
    say("Build ...")
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as folder:
        return result(_figures(source, limit, name, settings, Path(folder)), name)


def _figures(
    source: str | None, limit: int, name: ProfileName, settings: Settings, folder: Path
) -> list[Figure]:
    from core.describing import Describer
    from core.models.profiles import PROFILES, Models
    from precompute.build.pipeline import build
    from precompute.build.plan import BATCH_SIZE, BuildOptions
    from precompute.sources.types import SourceOptions

    profile = PROFILES[name]
    models = Models(profile, device=settings.device, query_cache_size=0)
    source = source or str(packaged_photos(folder / "photos"))
    captioner = _TimedCaptioner(models.captioner)
    describer = Describer(captioner, models.sentence, models.clip)
    _load(describer)
    built = build(
        BuildOptions(
            SourceOptions(source, limit=limit),
            folder / "built",
            profile,
            device=settings.device,
            progress=False,
        ),
        settings=settings,
        models=models,
    )
    if built is None:
        raise GalleryError(folder, "The build had nothing to do.")
    images = decoded_photos(source, limit, settings)
    captioner.seconds = 0.0
    started = time.perf_counter()
    for at in range(0, len(images), BATCH_SIZE):
        describer.describe(images[at : at + BATCH_SIZE])
    alone_s = time.perf_counter() - started
    return [
        Figure(
            name="build: captions and embeddings",
            value=built.images_per_second,
            unit="images/s",
            n=built.images,
            target=3.0,
            more_is_better=True,
            floor=len(images) / alone_s,
            floor_name="the models alone",
        ),
        Figure(
            name="build: share of the models alone",
            value=built.images_per_second * alone_s / len(images),
            unit="",
            n=built.images,
            target=0.9,
            more_is_better=True,
        ),
        Figure("captioner alone", len(images) / captioner.seconds, "images/s", len(images)),
        Figure(
            "encoders alone", len(images) / (alone_s - captioner.seconds), "images/s", len(images)
        ),
    ]


class _TimedCaptioner:
    """A captioner that adds up the seconds it takes."""

    def __init__(self, captioner: Captioner) -> None:
        self.spec, self.seconds = captioner.spec, 0.0
        self._captioner = captioner

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        started = time.perf_counter()
        captions = self._captioner.caption(images)
        self.seconds += time.perf_counter() - started
        return captions

    def caption_several(self, images: Sequence[Image], count: int) -> list[tuple[Caption, ...]]:
        started = time.perf_counter()
        captions = self._captioner.caption_several(images, count)
        self.seconds += time.perf_counter() - started
        return captions


def _load(describer: Describer) -> None:
    """Run all models once: what they do once in a process is no part of the speed."""
    from PIL import Image

    describer.describe([Image.new("RGB", (64, 64))])
