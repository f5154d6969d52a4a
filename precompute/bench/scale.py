"""What a gallery of a size that nobody has at hand costs to open and to serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.records import LENSES
from core.search.engines.training import RECALL_GOAL
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import queries
from precompute.bench.shared.multiplied import multiplied
from precompute.bench.shared.running_app import ROOT, running_app

if TYPE_CHECKING:
    from core.config import ProfileName
    from core.gallery.reader import Gallery
    from core.models.profiles import Models

_ASKED = 200
_DEPTH = 10
_OPENED_S, _COMPARE_MS, _APP_MB = 3.0, 25.0, 1600.0

_OPENING = """
import json, os, sys, time
from pathlib import Path
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES
from precompute.bench.shared.running_app import memory_of
import numpy, psutil, pyarrow, core.search.index
folder = Path(sys.argv[1])
before = memory_of(os.getpid(), folder)
started, busy = time.perf_counter(), time.process_time()
gallery = Gallery.open(folder, PROFILES[sys.argv[2]])
took, busy = time.perf_counter() - started, time.process_time() - busy
after = memory_of(os.getpid(), folder)
print(json.dumps([took, busy, after.own - before.own, after.gallery]))
"""


def scale(
    gallery: Path, pictures: int, out: Path | None, name: ProfileName, say: Say
) -> dict[str, Any]:
    """Make a large gallery of a small one, open both, and start the app over each.

    Args:
        gallery: The small one.
        pictures: Of the large one.
        out: Where it is kept; one that is there already is measured as it is. None keeps nothing.
        name: Of the profile that built the small one.
        say: Receives messages on progress.

    Raises:
        GalleryError: The small gallery cannot be served.
        AppError: The app did not start or answer.
    """
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES, Models

    models = Models(PROFILES[name])
    with tempfile.TemporaryDirectory(
        prefix="twolens-bench-", dir=out and out.absolute().parent
    ) as work:
        folder = Path(work)
        large = out or folder / "multiplied"
        figures = []
        small = Gallery.open(gallery, models.profile)
        if not large.exists():
            started, busy = time.perf_counter(), time.process_time()
            multiplied(small, pictures, large, folder, models, say)
            figures += [
                Figure("made, indexes trained", time.perf_counter() - started, "s", 1),
                Figure("made, CPU", time.process_time() - busy, "s", 1),
            ]
        size = sum(path.stat().st_size for path in large.rglob("*") if path.is_file())
        figures.append(Figure("on disk", size / 1e6, "MB", 1))
        say("Searching for what people said, exactly too ...")
        figures += _recall(Gallery.open(large, models.profile), small, models)
        first: dict[str, float] = {}
        for title, served in (("small", gallery), ("large", large)):
            for state, prepare in (("cold", forget), ("warm", _read)):
                if not prepare(served):
                    continue
                say(f"The {title} gallery, {state}: opening, and the app ...")
                figures += _opened(f"{title}, {state}", served, name)
                prepare(served)
                first[title], app_figures = _served(f"{title}, {state}", served, name, folder)
                figures += app_figures
        more = first["large"] - first["small"]
        figures.append(Figure("first answer, large minus small", more, "s", 1, target=2.0))
    return result(figures, name, pictures=pictures, made_of=gallery.name)


def forget(gallery: Path) -> bool:
    """Take a gallery's files out of the system's cache; tell whether that can be done here."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in _files(gallery):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _read(gallery: Path) -> bool:
    """Bring what searches read into the system's cache, as it is after some hours."""
    for path in _files(gallery):
        with path.open("rb") as file:
            while path.suffix != ".arrow" and file.read(1 << 24):
                pass
    return True


def _files(gallery: Path) -> list[Path]:
    return [path for path in gallery.rglob("*") if path.is_file()]


def _recall(large: Gallery, small: Gallery, models: Models) -> Iterator[Figure]:
    """Search a gallery by words that no index was tuned with."""
    import numpy as np

    rows = np.linspace(0, len(small) - 1, min(len(small), _ASKED)).astype(int).tolist()
    records = [small.records[row] for row in rows]
    said = list(dict.fromkeys((each.references or (each.caption,))[-1] for each in records))
    for words, texts in (("the queries below", queries(_ASKED)), ("what people said", said)):
        for lens in LENSES:
            encoder = models.clip if lens == "clip" else models.sentence
            asked, index = encoder.encode_text(texts), large.index(lens)
            found, exact = (each.search(asked, _DEPTH) for each in (index, large.exact_index(lens)))
            shares = [
                sum(hit.score >= needed[-1].score - 1e-6 for hit in hits) / len(needed)
                for hits, needed in zip(found, exact, strict=True)
            ]
            title = f"large: recall@{_DEPTH} of {words}, {lens} {index.kind}"
            recall = float(np.mean(shares))
            yield Figure(title, recall, "", len(texts), target=RECALL_GOAL, more_is_better=True)


def _opened(title: str, gallery: Path, name: str) -> Iterator[Figure]:
    """Open a gallery in a process of its own."""
    command = [sys.executable, "-c", _OPENING, str(gallery), name]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    took, busy, own, mapped = json.loads(found)
    yield Figure(f"{title}: opened", took, "s", 1, target=_OPENED_S)
    yield Figure(f"{title}: opened, CPU", busy, "s", 1)
    yield Figure(f"{title}: memory that opening takes", own, "MB", 1)
    yield Figure(f"{title}: and mapped files", mapped, "MB", 1)


def _served(
    title: str, gallery: Path, name: ProfileName, folder: Path
) -> tuple[float, list[Figure]]:
    """Start the app over a gallery; return the seconds to its first answer, and the figures."""
    import numpy as np

    with running_app([gallery], name, "a dog on the beach", folder) as app:
        at_first = app.memory()
        whole, beside = [], []
        for query in queries(_ASKED):
            answer, took = app.compare(query)
            whole.append(took)
            # The encoders run side by side.
            beside.append(took - max(answer["timings_ms"][lens]["encode"] for lens in LENSES))
        memory = app.memory()
    figures = [
        Figure(f"{title}: app start to first answer", app.first_answer_s, "s", 1),
        Figure(f"{title}: app memory then", at_first.resident, "MB", 1),
    ]
    for what, times, target in (
        ("/compare, new query", whole, None),
        ("/compare over its encoders", beside, _COMPARE_MS),
    ):
        p50, p95 = np.percentile(times, [50, 95])
        figures.append(Figure(f"{title}: {what}, p50", float(p50), "ms", _ASKED))
        figures.append(Figure(f"{title}: {what}, p95", float(p95), "ms", _ASKED, target=target))
    later = f"{title}: app memory after {_ASKED} queries"
    return app.first_answer_s, [
        *figures,
        Figure(later, memory.resident, "MB", 1, target=_APP_MB),
        Figure(f"{later}: its own", memory.own, "MB", 1),
        Figure(f"{later}: mapped files of the gallery", memory.gallery, "MB", 1),
        Figure(f"{later}: mapped libraries", memory.libraries, "MB", 1),
    ]
