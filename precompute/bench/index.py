"""Indexes of a size that no gallery at hand has: training, memory, disk, recall, and searches."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.gallery.dataset.image_ids import ImageIds
from core.gallery.index_files import write_indexes
from core.gallery.layout import index_file
from core.gallery.picture_set import PictureSet
from core.records import LENSES, IndexKind, Lens
from core.search.engines.approximate import Approximate, library
from core.search.engines.entry import IndexEntry
from core.search.index import Index
from core.search.results import FUSION_DEPTH
from core.search.service import SearchService
from precompute.bench.shared.figures import Figure, Say, result
from precompute.evaluate.index_curve import enlarged

if TYPE_CHECKING:
    from core.config import ProfileName
    from core.gallery.reader import Gallery
    from core.models.profiles import Models
    from precompute.build.index_command import IndexChoice

_SEED = 0
_DEPTH = 10
_CHUNK = 50_000
_TRAINING_S, _TRAINING_GB = 300.0, 6.0
_SEARCH_MS, _RECALL = 25.0, 0.95


def index(
    gallery: Path, choice: IndexChoice, pictures: int, count: int, name: ProfileName, say: Say
) -> dict[str, Any]:
    """Enlarge a gallery's embeddings, index both lenses, and search by words.

    Args:
        gallery: Whose embeddings lie between the vectors that are made. Captions of half of its
            pictures tune the index, as in a build; references of the others, what people said
            of them, are searched (captions if there are none).
        choice: Kind of index.
        pictures: How many to make.
        count: Queries that are searched.
        name: Of the profile that built it.
        say: Receives messages on progress.

    Raises:
        GalleryError: The gallery cannot be served.
        SourceError: It has too few pictures.
    """
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES, Models

    models = Models(PROFILES[name])
    opened = Gallery.open(gallery, models.profile)
    tuning, asked = _texts(opened, count)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="twolens-bench-") as folder:
        made = _Enlarged(Path(folder), pictures)
        for lens in LENSES:
            encoder = models.clip if lens == "clip" else models.sentence
            texts = [encoder.encode_text(sort) for sort in tuning]
            figures += made.fill(lens, opened.embeddings(lens), choice, texts, say)
        say("searching ...")
        library().omp_set_num_threads(1)  # as a server of many visitors has for each
        figures += _searches(made, models, asked)
        entries = {lens: made.entries[lens].model_dump() for lens in LENSES}
    return result(figures, name, pictures=pictures, indexes=entries)


def _texts(gallery: Gallery, count: int) -> tuple[tuple[list[str], list[str]], list[str]]:
    """Return words to tune with and words to search by, none twice."""
    from core.errors import SourceError
    from precompute.build.index_command import as_asked

    half = len(gallery.records) // 2
    tuning = as_asked(record.caption for record in gallery.records[:half])
    said = ((each.references or (each.caption,))[0] for each in gallery.records[half:])
    asked = list(dict.fromkeys(text for text in said if text.strip()))[:count]
    if min(len(tuning[0]), len(asked)) < 10:
        raise SourceError("The gallery needs 20 different captions or more.")
    return tuning, asked


class _Enlarged(PictureSet):
    """Pictures without records, between and around those of a gallery; in a temporary folder."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, (), ImageIds(np.arange(count, dtype=np.uint64)), {})
        self._vectors: dict[Lens, np.ndarray] = {}
        self._embeddings = self._vectors
        self._kind: IndexKind = "flat"
        self.entries: dict[Lens, IndexEntry] = {}

    @property
    def name(self) -> str:
        """What the page calls it."""
        return "enlarged"

    @property
    def index_kinds(self) -> tuple[IndexKind, ...]:
        """The one that is measured."""
        return (self._kind,)

    def fill(
        self,
        lens: Lens,
        real: np.ndarray,
        choice: IndexChoice,
        texts: Sequence[np.ndarray],
        say: Say,
    ) -> list[Figure]:
        """Make one lens's vectors and index; return what that took."""
        from precompute.build.index_command import chosen_kinds

        count, dim = len(self), real.shape[1]
        say(f"{lens}: {count:,} vectors of {dim} ...")
        path = self.folder / f"{lens}.npy"
        into = np.lib.format.open_memmap(path, "w+", np.float32, (count, dim))
        generator = np.random.default_rng(_SEED)
        for start in range(0, count, _CHUNK):
            rows = min(_CHUNK, count - start)
            into[start : start + rows] = enlarged(real, rows, generator)
        del into
        vectors = np.load(path, mmap_mode="r")
        self._vectors[lens] = vectors
        *_, self._kind = chosen_kinds(choice, count, 512, 1 << 30)
        marks = [(time.perf_counter(), time.process_time())]

        def told(text: str) -> None:
            marks.append((time.perf_counter(), time.process_time()))
            say(text)

        (entry,), _ = write_indexes(self.folder, lens, vectors, (self._kind,), texts, told)
        marks.append((time.perf_counter(), time.process_time()))
        self.entries[lens] = entry
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_gb = peak / (2**20 if sys.platform != "darwin" else 2**30)
        title = f"{lens} {self._kind}"
        names = ("training", "adding", "measuring")
        steps = list(zip(names, np.diff(marks, axis=0).tolist(), strict=False))
        return [
            *(
                Figure(f"{title}: {step}", took, "s", 1, target=_TRAINING_S if not at else None)
                for at, (step, (took, _)) in enumerate(steps)
            ),
            # On a busy machine, what it would take alone on one core.
            *(Figure(f"{title}: {step}, CPU", busy, "s", 1) for step, (_, busy) in steps),
            Figure(f"{title}: peak memory so far", peak_gb, "GiB", 1, target=_TRAINING_GB),
            Figure(f"{title}: a vector", self._file(lens).stat().st_size / count, "bytes", 1),
            Figure(
                f"{title}: recall@10, held-out {entry.query_origin}",
                entry.recall or 0.0,
                "",
                entry.queries,
                target=_RECALL,
                more_is_better=True,
            ),
            Figure(f"{title}: effort", float(entry.effort or 0), "", 1),
        ]

    def _file(self, lens: Lens) -> Path:
        return self.folder / index_file(lens, self._kind)

    def _make_index(self, lens: Lens, kind: IndexKind) -> Index:
        if kind == "flat":
            return Index(self._vectors[lens], self.ids)
        opened = Approximate.mapped(kind, str(self._file(lens)), self.entries[lens].effort)
        return Index(self._vectors[lens], self.ids, None, opened)


def _searches(made: _Enlarged, models: Models, asked: Sequence[str]) -> list[Figure]:
    """Search each lens, then both; the words were embedded before, so no encoder runs."""
    service = SearchService(made, models)
    figures = []
    for lens in LENSES:
        queries = np.stack([models.encode_query(lens, text).embedding for text in asked])
        exact = made.exact_index(lens).search(queries, _DEPTH)
        shares, took = [], []
        for turn in range(2):  # the first maps the files
            for row, text in enumerate(asked):
                started = time.perf_counter()
                hits = service.by_text(text, FUSION_DEPTH, lens).hits
                took.append(1000 * (time.perf_counter() - started))
                if turn:
                    needed = exact[row][-1].score - 1e-6
                    found = sum(hit.score >= needed for hit in hits[:_DEPTH])
                    shares.append(found / _DEPTH)
        title = f"{lens} {made.index_kinds[0]}"
        figures += _percentiles(f"{title}: search", took[len(asked) :])
        figures.append(
            Figure(
                f"{title}: recall@10, words",
                float(np.mean(shares)),
                "",
                len(shares),
                target=_RECALL,
                more_is_better=True,
            )
        )
    took = []
    for _ in range(2):
        for text in asked:
            started = time.perf_counter()
            service.compare(text)
            took.append(1000 * (time.perf_counter() - started))
    figures += _percentiles("both lenses and their fusion", took[len(asked) :], target=_SEARCH_MS)
    return figures


def _percentiles(
    name: str, milliseconds: Sequence[float], target: float | None = None
) -> list[Figure]:
    p50, p95 = np.percentile(milliseconds, [50, 95])
    count = len(milliseconds)
    return [
        Figure(f"{name} p50", float(p50), "ms", count),
        Figure(f"{name} p95", float(p95), "ms", count, target=target),
    ]
