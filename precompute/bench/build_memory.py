"""Memory of a build as its source grows, with models that take no time: the machinery alone."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import GalleryError
from core.records import Caption
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.running_app import ROOT

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from core.models.spec import ModelSpec

_TIMES = 10
_GROWTH_MB = 50.0


def build_memory(images: int, say: Say) -> dict[str, Any]:
    """Build galleries of made-up pictures, one ten times as large, each in its own process.

    Args:
        images: Pictures of the smaller one.
        say: Receives messages on progress.

    Raises:
        GalleryError: A build failed.
    """
    peaks: list[dict[str, float]] = []
    for count in (images, _TIMES * images):
        say(f"{count:,} pictures ...")
        with tempfile.TemporaryDirectory(prefix="twolens-bench-") as folder:
            command = [sys.executable, "-m", __name__, folder, str(count)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise GalleryError(Path(folder), "The build failed; the lines above say why.")
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    small, large = peaks
    made = f"from {images:,} to {_TIMES * images:,} pictures"
    return result(
        [
            Figure("build: peak memory while shards are made", large["shards"], "MB", 1),
            Figure(
                f"build: what that grows by {made}",
                large["shards"] - small["shards"],
                "MB",
                1,
                target=_GROWTH_MB,
            ),
            Figure("build: peak memory in all, indexes included", large["all"], "MB", 1),
            Figure(f"build: what that grows by {made}", large["all"] - small["all"], "MB", 1),
        ],
        "mini",
    )


class _Instant:
    """Captioner and both encoders: noise, and the memory that there was at the last caption."""

    def __init__(self, spec: ModelSpec) -> None:
        import numpy as np

        self.spec = spec
        self.peak_mb = 0.0
        self._dice = np.random.default_rng(0)

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        self.peak_mb = _peak_mb()
        return [Caption("a made-up picture")] * len(images)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        rows = self._dice.standard_normal((len(texts), self.spec.dim or 1)).astype(np.float32)
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def encode_image(self, images: Sequence[Image]) -> np.ndarray:
        return self.encode_text([""] * len(images))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _main(folder: Path, count: int) -> dict[str, float]:
    import numpy as np
    from PIL import Image

    from core.models.profiles import PROFILES, Models
    from precompute.build.pipeline import build
    from precompute.build.plan import BuildOptions
    from precompute.sources.types import SourceOptions

    dice = np.random.default_rng(1)
    for number in range(count):
        place = folder / "photos" / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(dice.integers(0, 255, (24, 32, 3), np.uint8)).save(buffer, "PNG")
        (place / f"{number:06d}.png").write_bytes(buffer.getvalue())
    profile = PROFILES["mini"]
    captioner = _Instant(profile.captioner)
    models: Any = {
        "captioner": captioner,
        "sentence": _Instant(profile.sentence),
        "clip": _Instant(profile.clip),
    }
    build(
        BuildOptions(
            SourceOptions(str(folder / "photos")),
            folder / "built",
            profile,
            device="cpu",
            large_up_to=0,
            progress=False,
        ),
        models=Models(profile, device="cpu", **models),
    )
    return {"shards": captioner.peak_mb, "all": _peak_mb()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
