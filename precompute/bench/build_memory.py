"""Memory of a build as its source grows: the real pipeline, with models that take little time.

Pictures are made up, and so are the weights of captioner and CLIP; all else is what builds a
gallery. What counts is anonymous memory: pages of mapped files are the system's to take back.
"""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import GalleryError
from core.gallery.layout import embeddings_file
from core.map.layout import MOST_PICTURES
from core.map.stored import MAP_FILE
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.running_app import ROOT
from precompute.build.plan import SHARD_SIZE

_GROWTH_MB = 50.0
_SAMPLE_S = 0.01
_DECODERS_EVERY = 50
"""Looking for a process's children takes longer than looking at the process."""
_FLAT = ("shards", "assembly")
"""Phases whose memory must not grow. Maps and indexes hold the embeddings, in whole or in part; of
more than 25,000 pictures the texts that measure the index are embedded before records are written.
"""


@dataclass(slots=True)
class Peaks:
    """Most anonymous memory of a build in MB.

    Attributes:
        phases: Of the process that builds, by what it does.
        decoder: Of any one of its decoding processes.
        seconds: By phase.
    """

    phases: dict[str, float] = field(default_factory=dict)
    decoder: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


def build_memory(sizes: Sequence[int], say: Say) -> dict[str, Any]:
    """Build galleries of made-up pictures, each in its own process.

    Args:
        sizes: Numbers of pictures, rising.
        say: Receives messages on progress.

    Raises:
        GalleryError: A build failed.
    """
    from precompute.bench.shared.small_models import small_profile

    peaks: dict[int, Peaks] = {}
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as made:
        folder = Path(made)
        small_profile(folder / "models")
        made_so_far = 0
        for count in sizes:
            say(f"{count:,} pictures ...")
            _make_photos(folder / "photos", made_so_far, count)
            made_so_far = count
            peaks[count] = _watched(folder, count)
            told = peaks[count]
            say("  " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in told.phases.items()))
            say("  " + ", ".join(f"{name} {s:.0f} s" for name, s in told.seconds.items()))
    return result([*memory_figures(peaks)], "mini")


def memory_figures(peaks: Mapping[int, Peaks]) -> Iterator[Figure]:
    """Yield the peaks of each phase, and how they grow from the fewest pictures to the most.

    Args:
        peaks: By number of pictures.
    """
    first, last = min(peaks), max(peaks)
    for phase in peaks[last].phases:
        for count, told in peaks.items():
            if phase in told.phases:
                name = f"build, {phase}: peak memory, {count:,} pictures"
                yield Figure(name, told.phases[phase], "MB", 1)
        if last != first and phase in peaks[first].phases:  # of few pictures, some are not seen
            more = peaks[last].phases[phase] - peaks[first].phases[phase]
            target = _GROWTH_MB if phase in _FLAT else None
            name = f"build, {phase}: growth from {first:,} to {last:,}"
            yield Figure(name, more, "MB", 1, target=target)
    for count, told in peaks.items():
        yield Figure(f"build, a decoder: peak memory, {count:,} pictures", told.decoder, "MB", 1)


def _make_photos(folder: Path, first: int, count: int) -> None:
    """Write JPEGs of 160 x 120, all different, until there are so many."""
    import numpy as np
    from PIL import Image

    for number in range(first, count):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        few = np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(few).resize((160, 120)).save(buffer, "JPEG")
        (place / f"{number:06d}.jpg").write_bytes(buffer.getvalue())


def _watched(folder: Path, count: int) -> Peaks:
    """Build a gallery of the photos in another process, and watch what it holds."""
    import psutil

    out = folder / f"built-{count}"
    command = [sys.executable, "-m", __name__, str(folder), str(out)]
    peaks, started = Peaks(), time.perf_counter()
    phase, began = "start", started
    with subprocess.Popen(command, cwd=ROOT) as building:
        process = psutil.Process(building.pid)
        for turn in itertools.count():
            if building.poll() is not None:
                break
            now = time.perf_counter()
            peaks.seconds[phase] = now - began
            found = _phase(out, count, phase)
            if found != phase:
                phase, began = found, now
            held = _anonymous_mb(building.pid)
            peaks.phases[phase] = max(held, peaks.phases.get(phase, 0.0))
            for child in process.children() if turn % _DECODERS_EVERY == 0 else ():
                peaks.decoder = max(_anonymous_mb(child.pid), peaks.decoder)
            time.sleep(_SAMPLE_S)
    if building.returncode:
        raise GalleryError(out, "The build failed; the lines above say why.")
    return peaks


def _phase(out: Path, count: int, before: str) -> str:
    """Return what a build does, by the files that are there."""
    work = out.with_name(f".{out.name}.building")
    last = f"{(count - 1) // SHARD_SIZE:05d}.json"
    gallery = work / "gallery"
    # In the order of a build; each begins where a file is there that ends the one before.
    begins = {
        "start": work,
        "shards": work / "shards",
        "assembly": work / "shards" / last,
        "maps": work / embeddings_file("clip"),
        "records": gallery / MAP_FILE,
        "indexes": gallery / embeddings_file("captions"),
    }
    if count > MOST_PICTURES:
        begins["records"] = begins.pop("maps")
    phases = [*begins]
    place = phases.index(before)
    while place + 1 < len(phases) and begins[phases[place + 1]].exists():
        place += 1
    return phases[place]


def _anonymous_mb(pid: int) -> float:
    """Return what a process holds beside mapped files; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines.get("RssAnon", "0 kB").split()[0]) * 1024 / 1e6


def _main(folder: Path, out: Path) -> None:
    from precompute.bench.shared.small_models import small_profile_in
    from precompute.build.pipeline import build
    from precompute.build.plan import BuildOptions
    from precompute.sources.types import SourceOptions

    build(
        BuildOptions(
            SourceOptions(str(folder / "photos")),
            out,
            small_profile_in(folder / "models"),
            device="cpu",
            batch_size=32,
            large_up_to=0,
            progress=False,
        )
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
