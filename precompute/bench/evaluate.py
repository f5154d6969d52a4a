"""The evaluation at a size that no gallery at hand has: how long it takes, in how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import GalleryError
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import planted_gallery
from precompute.bench.shared.running_app import ROOT

if TYPE_CHECKING:
    from core.config import ProfileName

# A process of its own between the two: a child's peak counts from the moment that it still is a
# copy of its parent, and the one that has just made the gallery is large.
_MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
_MEMORY_GB = 4.0


def evaluation(images: int, count: int, name: ProfileName, say: Say) -> dict[str, Any]:
    """Evaluate a made-up gallery by the real command and return time and memory of it.

    Vectors and captions are made up, so the figures of the lenses are those of chance. Ranking
    takes as long as ever: it does not depend on the vectors.

    Args:
        images: Pictures of the gallery.
        count: Queries.
        name: Of the profile.
        say: Receives messages on progress.

    Raises:
        GalleryError: The gallery cannot be made, or the evaluation failed.
    """
    from core.models.profiles import PROFILES

    profile = PROFILES[name]
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as folder:
        figures_file = Path(folder) / "metrics.json"
        say(f"A gallery of {images:,} images ...")
        gallery = planted_gallery(images, profile, Path(folder), count)
        say(f"Its evaluation with {count:,} queries ...")
        command = [sys.executable, "-m", "precompute", "evaluate", str(gallery)]
        command += ["--json", str(figures_file)]
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, *command], cwd=ROOT, stdout=subprocess.PIPE
        )
        if done.returncode:
            raise GalleryError(gallery, "The gallery could not be evaluated; see above.")
        metrics = json.loads(figures_file.read_bytes())
    seconds, queries = metrics["seconds"], metrics["queries"]
    peak_gb = int(done.stdout) / 1e6
    figures = [
        Figure("evaluation: peak memory", peak_gb, "GB", 1, target=_MEMORY_GB),
        Figure("evaluation: all", sum(seconds.values()), "s", 1),
        *(Figure(f"evaluation: {stage}", took, "s", 1) for stage, took in seconds.items()),
    ]
    about = {"images": metrics["images"], "made_of": "random unit vectors"}
    return result(figures, name, gallery=about, queries=queries)
