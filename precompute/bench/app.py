"""Speed and memory of the running app."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from core.errors import GalleryError
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import Searched, queries, searched_gallery
from precompute.bench.shared.running_app import ROOT, running_app

if TYPE_CHECKING:
    from core.config import ProfileName, Settings
    from core.gallery.reader import Gallery
    from core.models.profiles import Models

_REPEATED = 50
_EXPLAINED = 50
_IMPORT_RUNS = 3
_CHILD_LIMIT_S = 120


def app(searched: Searched, count: int, settings: Settings, say: Say) -> dict[str, Any]:
    """Measure imports, start, searches and memory.

    Args:
        searched: The gallery that is served.
        count: Different queries that are timed.
        settings: Device of the encoders alone.
        say: Receives messages on progress.

    Raises:
        AppError: The app did not start or answer.
        GalleryError: The gallery cannot be made or served.
        SourceError: The source cannot be read.
    """
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES, Models

    profile = PROFILES[searched.profile]
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as name:
        folder = Path(name)
        say("Import and help ...")
        figures = _imports()
        say("Gallery ...")
        gallery_folder, origin = searched_gallery(searched, profile, folder)
        gallery = Gallery.open(gallery_folder, profile)
        say(f"The app over {len(gallery):,} images ...")
        asked = _ask_app(gallery_folder, searched.profile, count, folder)
        say("The encoders and numpy alone ...")
        models = Models(profile, device=settings.device, query_cache_size=0)
        figures += _search_figures(asked, gallery, models, count)
    about = {"images": len(gallery), "made_of": origin}
    return result(figures, searched.profile, gallery=about)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the running app was measured at."""

    first_answer_s: float
    fresh_ms: list[float]
    search_ms: list[float]
    repeated_ms: list[float]
    http_ms: list[float]
    memory_mb: float
    why_ms: list[float]
    another_caption_ms: list[float]


def _ask_app(gallery: Path, profile: ProfileName, count: int, folder: Path) -> _Asked:
    texts = queries(count)
    with running_app([gallery], profile, "warm up", folder) as app:
        # Both encoders are in memory now; one more, since a first pass is never typical.
        app.compare("warm up again")
        fresh, search, found = [], [], []
        for query in texts:
            answer, took_ms = app.compare(query)
            if answer["failures"]:
                raise GalleryError(gallery, f"A lens failed: {answer['failures']}.")
            fresh.append(took_ms)
            found.append(answer["clip"][0]["id"])
            search += [answer["timings_ms"][lens]["search"] for lens in ("captions", "clip")]
        repeated = [app.compare(texts[0])[1] for _ in range(_REPEATED)]
        http_ms = [app.ask("galleries")[1] for _ in range(_REPEATED)]
        memory_mb = app.memory().resident  # before the image tower is there, which /why needs
        explained = list(zip(texts, found, strict=True))[:_EXPLAINED]
        app.ask("why", *explained[0])
        why_ms = [app.ask("why", *each)[1] for each in explained]
        other_ms = [app.ask("try_caption", *each, f"not {each[0]}")[1] for each in explained]
        return _Asked(
            first_answer_s=app.first_answer_s,
            fresh_ms=fresh,
            search_ms=search,
            repeated_ms=repeated,
            http_ms=http_ms,
            memory_mb=memory_mb,
            why_ms=why_ms,
            another_caption_ms=other_ms,
        )


def _search_figures(asked: _Asked, gallery: Gallery, models: Models, count: int) -> list[Figure]:

    models.sentence.encode_text(["warm up"])
    models.clip.encode_text(["warm up"])
    forward_ms = [
        _timed_ms(models.sentence.encode_text, [text]) + _timed_ms(models.clip.encode_text, [text])
        for text in queries(count)
    ]
    vectors = gallery.embeddings("clip")
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
        *(
            Figure(
                name=f"{name}, p{percent}",
                value=_quantile(took, percent),
                unit="ms",
                n=len(took),
                target=target,
            )
            for name, took, target in (
                ("/why: words of the captions and map of the picture", asked.why_ms, 150.0),
                ("/try_caption: both ranks with another caption", asked.another_caption_ms, 100.0),
            )
            for percent in (50, 95)
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


def _timed_ms(call: Callable[[Any], object], argument: object) -> float:
    started = time.perf_counter()
    call(argument)
    return (time.perf_counter() - started) * 1000


def _quantile(values: Sequence[float], percent: int) -> float:
    import numpy as np

    return float(np.percentile(values, percent))
