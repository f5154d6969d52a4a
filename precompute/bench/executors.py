"""What it costs to spread a build over ranks or Ray's actors, beside one process."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import GalleryError
from core.files import sha256_of
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import packaged_photos
from precompute.bench.shared.running_app import ROOT

if TYPE_CHECKING:
    from core.config import ProfileName

_LAUNCH: tuple[str, ...] = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
)
_LAUNCH += ("1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m")
WAYS: dict[str, tuple[tuple[str, ...], int]] = {
    "local": ((), 2),
    "accelerate": (_LAUNCH, 1),
    "ray": ((), 2),
}
"""By ``--executor``: what launches it, and the threads of each of its processes with models."""
_SHARD = 8
_FEW = 2 * _SHARD
"""A shard for each of two ranks, and as many pictures as a map by t-SNE needs: all that starts once
has started then."""
_MANY = 1000
_MOST_MORE = 0.15
_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU, of all processes, and of the clock."""

    cpu_s: float
    wall_s: float

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        """Return the sum with so many times another."""
        return Cost(self.cpu_s + times * other.cpu_s, self.wall_s + times * other.wall_s)

    def over(self, pictures: int) -> Cost:
        """Return the cost of each of so many pictures."""
        return Cost(self.cpu_s / pictures, self.wall_s / pictures)


def executors(
    source: str | None,
    images: int,
    name: ProfileName,
    say: Say,
    build: Callable[..., Cost] | None = None,
) -> dict[str, Any]:
    """Build the same pictures by each executor in turn, few of them first: what starting costs.

    What many pictures would take is computed from the start and the time of a further picture.

    Args:
        source: Photos; None takes those that ship inside installed packages.
        images: Most pictures.
        name: Of the profile.
        say: Receives messages on progress.
        build: Instead of :func:`build_by`.

    Raises:
        GalleryError: A build failed, or made other bytes than one process with as many threads.
    """
    build = build or build_by
    costs: dict[tuple[str, int], Cost] = {}
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as made:
        folder = Path(made)
        source = source or str(packaged_photos(folder / "photos"))
        for count in (_FEW, images):
            for executor in WAYS:
                say(f"{executor}, {count} pictures ...")
                out = folder / f"{executor}-{count}"
                cost = costs[executor, count] = build(executor, source, count, name, out)
                say(f"  {cost.cpu_s:.1f} s of CPU in {cost.wall_s:.1f} s")
        say("local with one thread, for its bytes ...")
        build("local", source, images, name, folder / f"local-{images}-1", threads=1)
        for executor in ("accelerate", "ray"):
            out = folder / f"{executor}-{images}"
            alike = folder / (f"local-{images}-1" if WAYS[executor][1] == 1 else f"local-{images}")
            differ = _differing(out, alike)
            if differ:
                raise GalleryError(out, f"{executor} made other bytes of {', '.join(differ)}.")
        say("Every executor made the bytes of one process with as many threads.")
        other = _differing(folder / f"local-{images}-1", folder / f"local-{images}")
        say(f"One thread and two make other bytes of: {', '.join(other) or 'nothing'}.")
    figures: list[Figure] = []
    for executor in WAYS:
        figures += _figures(executor, costs, images)
    return result(figures, name)


def _figures(executor: str, costs: dict[tuple[str, int], Cost], images: int) -> list[Figure]:
    further = images - _FEW
    own, alone = (
        _Costs.of(costs[who, _FEW], costs[who, images], further) for who in (executor, "local")
    )
    many = f"{_MANY:,} pictures, computed"
    figures: list[Figure] = []
    for what, cost, n in (
        (f"{images} pictures", own.measured, images),
        ("start", own.start, 2),
        ("a further picture", own.each, further),
        (many, own.computed(_MANY), 0),
    ):
        figures.append(Figure(f"{executor}: CPU of {what}", cost.cpu_s, "s", n))
        figures.append(Figure(f"{executor}: time of {what}", cost.wall_s, "s", n))
    if executor == "local":
        return figures
    for what, more, less, n in (
        (f"{images} pictures", own.measured, alone.measured, images),
        ("further pictures", own.each, alone.each, further),
        (many, own.computed(_MANY), alone.computed(_MANY), 0),
    ):
        for kind, share in (
            ("CPU", more.cpu_s / less.cpu_s),
            ("time", more.wall_s / less.wall_s),
        ):
            name = f"{executor}: {kind} of {what}, more than local"
            figures.append(Figure(name, share - 1, "", n, target=_MOST_MORE))
    return figures


@dataclass(frozen=True, slots=True)
class _Costs:
    """What an executor took: in all, before any picture, and for each of those after the first."""

    measured: Cost
    start: Cost
    each: Cost

    @classmethod
    def of(cls, few: Cost, all_of_them: Cost, further: int) -> _Costs:
        each = all_of_them.plus(few, -1).over(further)
        return cls(all_of_them, few.plus(each, -_FEW), each)

    def computed(self, pictures: int) -> Cost:
        return self.start.plus(self.each, pictures)


def build_by(
    executor: str,
    source: str,
    count: int,
    name: ProfileName,
    out: Path,
    threads: int | None = None,
) -> Cost:
    """Build a gallery by an executor, with its usual threads or so many, and return the cost.

    Raises:
        GalleryError: It failed.
    """
    _adopt_orphans()
    launch, usual = WAYS[executor]
    command = [sys.executable, "-m", *launch, "precompute", "build", source, "--out", str(out)]
    command += ["--limit", str(count), "--shard-size", str(_SHARD), "--batch-size", str(_SHARD)]
    command += ["--profile", name, "--executor", executor]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads or usual),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    before, started = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - started
    if done.returncode:
        raise GalleryError(out, f"--executor {executor} failed: {done.stderr[-2000:]}")
    return Cost(_cpu_of_children() - before, wall)


def _adopt_orphans() -> None:
    """Let processes whose parent has ended become ours (Linux): Ray's would not be counted else."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)


def _cpu_of_children() -> float:
    """Wait for every child and orphan, and return the CPU seconds of all there have been."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _differing(one: Path, other: Path) -> list[str]:
    """Return the files that are not the same, the manifest and the report, with times, left out."""
    names = sorted(json.loads((one / "manifest.json").read_text(encoding="utf-8"))["files"])
    return [
        name
        for name in names
        if name != "build_report.json" and sha256_of(one / name) != sha256_of(other / name)
    ]
