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
    from core.config import ProfileName, Settings
    from core.models.profiles import Models


def build_speed(
    source: str | None, limit: int, name: ProfileName, settings: Settings, say: Say
) -> dict[str, Any]:
    """Time a build, then the models on the same pictures.

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
    from core.models.profiles import PROFILES, Models
    from precompute.build.pipeline import build
    from precompute.build.plan import BATCH_SIZE, BuildOptions
    from precompute.sources.types import SourceOptions

    profile = PROFILES[name]
    models = Models(profile, device=settings.device, query_cache_size=0)
    source = source or str(packaged_photos(folder / "photos"))
    _load(models)
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
    caption_s = embed_s = 0.0
    for at in range(0, len(images), BATCH_SIZE):
        batch = images[at : at + BATCH_SIZE]
        started = time.perf_counter()
        captions = models.captioner.caption(batch)
        caption_s += time.perf_counter() - started
        started = time.perf_counter()
        models.sentence.encode_text([caption.text for caption in captions])
        models.clip.encode_image(batch)
        embed_s += time.perf_counter() - started
    return [
        Figure(
            name="build: captions and embeddings",
            value=built.images_per_second,
            unit="images/s",
            n=built.images,
            target=3.0,
            more_is_better=True,
            floor=len(images) / (caption_s + embed_s),
            floor_name="the models alone",
        ),
        Figure(
            name="build: share of the models alone",
            value=built.images_per_second * (caption_s + embed_s) / len(images),
            unit="",
            n=built.images,
            target=0.9,
            more_is_better=True,
        ),
        Figure("captioner alone", len(images) / caption_s, "images/s", len(images)),
        Figure("both encoders alone", len(images) / embed_s, "images/s", len(images)),
    ]


def _load(models: Models) -> None:
    """Run all models once: how long they take to load is no part of the speed."""
    from PIL import Image

    blank = [Image.new("RGB", (64, 64))]
    models.captioner.caption(blank)
    models.sentence.encode_text(["a picture"])
    models.clip.encode_image(blank)
