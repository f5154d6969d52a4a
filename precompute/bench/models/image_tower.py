"""How long the CLIP model's image tower takes on a CPU, as it runs there and in float32."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from core.errors import SourceError
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import decoded_photos, packaged_photos

if TYPE_CHECKING:
    from core.config import ProfileName, Settings

_BATCH = 16
_REPEATED = 30
_TARGET_MS = 40.0


def image_tower(
    source: str | None,
    name: ProfileName,
    settings: Settings,
    say: Say,
    repeated: int = _REPEATED,
) -> dict[str, Any]:
    """Time batches of 16 decoded and prepared photos through the tower alone.

    Where the model runs in int8, batches in both precisions take turns, so that whatever else the
    machine does falls on both.

    Args:
        source: Photos; None takes those that ship inside installed packages.
        name: Of the profile.
        settings: Limits of decoding.
        say: Receives messages on progress.
        repeated: Batches that are timed in each precision.

    Raises:
        SourceError: The photos cannot be read, or none can be used.
        ModelNotFoundError: The model's weights cannot be loaded.
    """
    import torch

    from core.models.clip.encoder import ClipEncoder
    from core.models.profiles import PROFILES

    spec = PROFILES[name].clip
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as folder:
        source = source or str(packaged_photos(Path(folder) / "photos"))
        photos = decoded_photos(source, _BATCH, settings)
    if not photos:
        raise SourceError(f"{source} holds no picture that can be used.")
    precisions = dict.fromkeys((spec.precision, "fp32"))
    say(f"{spec.name} in {' and '.join(precisions)} ...")
    towers = {
        precision: ClipEncoder(replace(spec, precision=precision), device="cpu")
        for precision in precisions
    }
    ready = next(iter(towers.values())).image_tower
    few = torch.stack([ready.preprocess(photo) for photo in photos])
    pixels = few[torch.arange(_BATCH) % len(few)].contiguous(memory_format=torch.channels_last)
    took: dict[str, list[float]] = {precision: [] for precision in towers}
    with torch.inference_mode():
        for _ in range(repeated + 1):
            for precision, encoder in towers.items():
                started = time.perf_counter()
                encoder.image_tower.module(pixels)
                took[precision].append((time.perf_counter() - started) * 1000 / _BATCH)
    # The first batch sets up what later ones find.
    took = {precision: times[1:] for precision, times in took.items()}
    figures = [
        Figure(
            name=f"image tower, {precision}, batch {_BATCH}, an image, {kind}",
            value=value,
            unit="ms",
            n=repeated,
            target=_TARGET_MS if precision == spec.precision and kind == "p50" else None,
        )
        for precision, times in took.items()
        for kind, value in (("p50", median(times)), ("fastest", min(times)))
    ]
    if len(took) > 1:
        shares = [own / whole for own, whole in zip(*took.values(), strict=True)]
        figures.append(
            Figure(f"image tower, {spec.precision} of fp32, p50", median(shares), "", repeated)
        )
    return result(figures, name, model=spec.name, threads=torch.get_num_threads())
