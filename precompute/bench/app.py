"""Speed and memory of the running product, each figure beside the floor under it.

A floor is the time of the least that must be done: the bare forward pass of the encoders, or one
numpy matrix product. What lies between a figure and its floor is ours.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from core.errors import GalleryError, SourceError
from core.files import write_atomically
from precompute.bench.material import (
    BenchOptions,
    decoded_photos,
    packaged_photos,
    queries,
    searched_gallery,
)
from precompute.bench.running_app import ROOT, running_app

if TYPE_CHECKING:
    from core.config import Settings
    from core.gallery.reader import Gallery
    from core.models.profiles import Models, Profile

_REPEATED = 50
_IMPORT_RUNS = 3
_CHILD_LIMIT_S = 120
_VERSIONS = (
    *("torch", "transformers", "open_clip_torch", "sentence-transformers", "faiss-cpu"),
    *("gradio", "numpy", "pillow"),
)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    Attributes:
        name: What was measured.
        value: The measurement.
        unit: Of value, target and floor.
        n: Measurements behind the value.
        target: What is asked for on 2 cores with the ``mini`` profile; None where nothing is.
        more_is_better: Whether the target is a least and not a most.
        floor: The least that it could be (the most, where more is better); None if not known.
        floor_name: What was timed as the floor.
    """

    name: str
    value: float
    unit: str
    n: int
    target: float | None = None
    more_is_better: bool = False
    floor: float | None = None
    floor_name: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.more_is_better else self.value <= self.target


def bench(options: BenchOptions, settings: Settings, say: Say) -> dict[str, Any]:
    """Measure everything and return it as plain values, ready for JSON.

    Raises:
        AppError: The app did not start or answer.
        GalleryError: The gallery cannot be made or served.
        SourceError: The source cannot be read.
    """
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES, Models

    profile = PROFILES[options.profile]
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as name:
        folder = Path(name)
        say("Import and help ...")
        figures = _imports()
        say("Gallery ...")
        gallery_folder, origin = searched_gallery(options, profile, folder)
        gallery = Gallery.open(gallery_folder, profile)
        say(f"The app over {len(gallery):,} images ...")
        asked = _ask_app(gallery_folder, options, folder)
        say("The encoders and numpy alone ...")
        models = Models(profile, device=settings.device, query_cache_size=0)
        figures += _search_figures(asked, gallery, models, options.queries)
        say("Build ...")
        figures += _build_figures(options, settings, profile, models, folder)
    return {
        "machine": machine(),
        "versions": {package: _version(package) for package in _VERSIONS},
        "profile": options.profile,
        "gallery": {"images": len(gallery), "made_of": origin},
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write the result; the file is whole or absent.

    Raises:
        SourceError: The file cannot be written.
    """
    try:
        write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise SourceError(f"{path} cannot be written ({error.strerror}).") from error


def table(result: dict[str, Any]) -> str:
    """Return the figures as a table for the terminal."""
    head = ("figure", "value", "target", "met", "floor", "n")
    rows = [head]
    for figure in result["figures"]:
        unit, better = figure["unit"], ">=" if figure["more_is_better"] else "<="
        target = "" if figure["target"] is None else f"{better} {figure['target']:g} {unit}"
        floor = ""
        if figure["floor"] is not None:
            floor = f"{figure['floor']:.3g} {unit} ({figure['floor_name']})"
        met = {None: "", True: "yes", False: "NO"}[figure["met"]]
        value = f"{figure['value']:.3g}" if figure["value"] < 1000 else f"{figure['value']:.0f}"
        rows.append((figure["name"], f"{value} {unit}", target, met, floor, str(figure["n"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the running app was measured at."""

    first_answer_s: float
    fresh_ms: list[float]
    search_ms: list[float]
    repeated_ms: list[float]
    http_ms: list[float]
    memory_mb: float


def _ask_app(gallery: Path, options: BenchOptions, folder: Path) -> _Asked:
    texts = queries(options.queries)
    with running_app([gallery], options.profile, "warm up", folder) as app:
        # Both encoders are in memory now; one more, since a first pass is never typical.
        app.compare("warm up again")
        fresh, search = [], []
        for query in texts:
            answer, took_ms = app.compare(query)
            if answer["failures"]:
                raise GalleryError(gallery, f"A lens failed: {answer['failures']}.")
            fresh.append(took_ms)
            search += [answer["timings_ms"][lens]["search"] for lens in ("captions", "clip")]
        repeated = [app.compare(texts[0])[1] for _ in range(_REPEATED)]
        http_ms = [app.ask("galleries")[1] for _ in range(_REPEATED)]
        return _Asked(
            first_answer_s=app.first_answer_s,
            fresh_ms=fresh,
            search_ms=search,
            repeated_ms=repeated,
            http_ms=http_ms,
            memory_mb=app.memory_mb(),
        )


def _search_figures(asked: _Asked, gallery: Gallery, models: Models, count: int) -> list[Figure]:
    import numpy as np

    models.sentence.encode_text(["warm up"])
    models.clip.encode_text(["warm up"])
    forward_ms = [
        _timed_ms(models.sentence.encode_text, [text]) + _timed_ms(models.clip.encode_text, [text])
        for text in queries(count)
    ]
    vectors = np.stack([gallery.embedding("clip", record.id) for record in gallery.records])
    query = models.clip.encode_text(["a dog"])[0]
    product_ms = [_timed_ms(vectors.__matmul__, query) for _ in range(_REPEATED)]
    fresh = [
        Figure(
            name=f"warm /compare, new query, p{percent}",
            value=_quantile(asked.fresh_ms, percent),
            unit="ms",
            n=len(asked.fresh_ms),
            target=target,
            floor=_quantile(forward_ms, percent),
            floor_name="both text encoders alone",
        )
        for percent, target in ((50, 60.0), (95, 120.0))
    ]
    return [
        Figure(
            name="app start to first answer",
            value=asked.first_answer_s,
            unit="s",
            n=1,
            target=10.0,
            floor=_import_s(),
            floor_name="importing gradio and the encoders' libraries",
        ),
        *fresh,
        Figure(
            name="warm /compare, known query, p50",
            value=median(asked.repeated_ms),
            unit="ms",
            n=_REPEATED,
            floor=median(asked.http_ms),
            floor_name="/galleries: HTTP alone",
        ),
        Figure(
            name="search of one lens, p50",
            value=median(asked.search_ms),
            unit="ms",
            n=len(asked.search_ms),
            target=1.0,
            floor=median(product_ms),
            floor_name="numpy matrix product",
        ),
        Figure(
            name="memory, query encoders only",
            value=asked.memory_mb,
            unit="MB",
            n=1,
            target=1500.0,
        ),
    ]


def _import_s() -> float:
    libraries = "import gradio, torch, transformers, open_clip, faiss"
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", libraries],
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=_CHILD_LIMIT_S,
    )
    return time.perf_counter() - started


def _imports() -> list[Figure]:
    bare = median(_cpu_s(["-c", "pass"]) for _ in range(_IMPORT_RUNS))
    return [
        Figure(
            name=name,
            value=median(_cpu_s(arguments) for _ in range(_IMPORT_RUNS)),
            unit="s CPU",
            n=_IMPORT_RUNS,
            target=0.5,
            floor=bare,
            floor_name="python alone",
        )
        for name, arguments in (
            ("import core", ["-c", "import core"]),
            ("import core.search", ["-c", "import core.search"]),
            ("precompute --help", ["-m", "precompute", "--help"]),
        )
    ]


def _cpu_s(arguments: Sequence[str]) -> float:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=_CHILD_LIMIT_S,
    )
    return spent() - before


def _build_figures(
    options: BenchOptions, settings: Settings, profile: Profile, models: Models, folder: Path
) -> list[Figure]:
    from precompute.build.pipeline import build
    from precompute.build.plan import BATCH_SIZE, BuildOptions
    from precompute.sources.types import SourceOptions

    source = options.source or str(packaged_photos(folder / "photos"))
    limit = options.build_images
    result = build(
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
    if result is None:
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
            value=result.images_per_second,
            unit="images/s",
            n=result.images,
            target=3.0,
            more_is_better=True,
            floor=len(images) / (caption_s + embed_s),
            floor_name="the models alone",
        ),
        Figure("captioner alone", len(images) / caption_s, "images/s", len(images)),
        Figure("both encoders alone", len(images) / embed_s, "images/s", len(images)),
    ]


def _timed_ms(call: Callable[[Any], object], argument: object) -> float:
    started = time.perf_counter()
    call(argument)
    return (time.perf_counter() - started) * 1000


def _quantile(values: Sequence[float], percent: int) -> float:
    import numpy as np

    return float(np.percentile(values, percent))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
