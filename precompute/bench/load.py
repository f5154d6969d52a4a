"""The app under load: visitors search while others have their photos described."""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.material import Searched, packaged_photos, queries, searched_gallery
from precompute.bench.shared.running_app import RunningApp, running_app
from precompute.bench.shared.visitors import (
    Described,
    Ranking,
    Searches,
    UploadVisitor,
    search_until,
)

if TYPE_CHECKING:
    from core.gallery.reader import Gallery
    from core.models.profiles import Profile

SEARCHERS = 20
UPLOADS = 3
PHOTOS_AN_UPLOAD = 50
LARGE_PHOTOS = 100
LARGE_SIZE = (4000, 3000)

_PAUSE_S = 1.0
_SMALL_SIZE = (1600, 1200)
_MOST_REQUESTS = 2_000
_QUALITY = 88


def load(options: Searched, say: Say) -> dict[str, Any]:
    """Measure searching under load and the speed of one upload of large photos.

    Every request goes to a loopback port; there are at most 2,000 searches and four uploads.

    Raises:
        AppError: The app did not start or answer.
        GalleryError: The gallery cannot be made or served.
    """
    from core.gallery.reader import Gallery
    from core.models.profiles import PROFILES

    profile = PROFILES[options.profile]
    with tempfile.TemporaryDirectory(prefix="twolens-load-") as name:
        folder = Path(name)
        say("Gallery and photos ...")
        gallery_folder, origin = searched_gallery(options, profile, folder)
        sources = _source_photos(options, folder)
        large = photos(sources, LARGE_PHOTOS, LARGE_SIZE)
        small = photos(sources, UPLOADS * PHOTOS_AN_UPLOAD, _SMALL_SIZE)
        gallery = Gallery.open(gallery_folder, profile)
        say("The right answers ...")
        asked = queries(_MOST_REQUESTS)
        expected = right_answers(gallery, profile, asked)
        with running_app([gallery_folder], options.profile, "warm up", folder) as app:
            say(f"{LARGE_PHOTOS} photos of 12 megapixels ...")
            figures = _large_figures(app, large)
            say(f"{SEARCHERS} visitors search, {UPLOADS} upload {PHOTOS_AN_UPLOAD} photos ...")
            figures += _load_figures(app, small, asked, expected)
    about = {"images": len(gallery), "made_of": origin}
    return result(figures, options.profile, gallery=about)


def photos(sources: Sequence[Path], count: int, size: tuple[int, int]) -> dict[str, bytes]:
    """Return JPEG files of one size, each different, made of the given photos in turn."""
    from PIL import Image

    made: dict[str, bytes] = {}
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as source:
            turn = number // len(sources)
            inset = turn * 0.02
            box = (
                round(source.width * inset),
                round(source.height * inset),
                round(source.width * (1 - inset)),
                round(source.height * (1 - inset)),
            )
            image = source.convert("RGB").resize(size, Image.Resampling.BILINEAR, box)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        made[f"photo {number:03}.jpg"] = buffer.getvalue()
    return made


def right_answers(
    gallery: Gallery, profile: Profile, asked: Sequence[str]
) -> dict[str, dict[str, Ranking]]:
    """Return, for each query and lens, the ranking of a quiet service."""
    from core.models.profiles import Models
    from core.records import LENSES
    from core.search.results import FUSION_DEPTH

    models = Models(profile, query_cache_size=0)
    answers: dict[str, dict[str, Ranking]] = {query: {} for query in asked}
    for lens in LENSES:
        encoder = models.sentence if lens == "captions" else models.clip
        index = gallery.exact_index(lens)
        rankings = index.search(encoder.encode_text(list(asked)), min(FUSION_DEPTH, len(gallery)))
        for query, hits in zip(asked, rankings, strict=True):
            answers[query][lens] = [(hit.id, hit.score) for hit in hits]
    return answers


def _source_photos(options: Searched, folder: Path) -> list[Path]:
    root = Path(options.source) if options.source else packaged_photos(folder / "sources")
    return sorted(
        path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )


def _large_figures(app: RunningApp, large: dict[str, bytes]) -> list[Figure]:
    """Describe the same photos in two uploads, one after the other: cold, then warm."""
    count = len(large)
    runs: list[tuple[Described, float]] = []
    for _ in range(2):
        visitor = UploadVisitor(app.address)
        sent_s = visitor.send(large)
        done = visitor.describe()
        done.sent_s = sent_s
        runs.append((done, app.memory().resident))
        visitor.close()
    (cold, cold_mb), (warm, warm_mb) = runs
    return [
        Figure(f"upload: {count} photos of 12 MP, models to load", cold.took_s, "s", count,
               target=45.0),
        Figure(f"upload: {count} photos of 12 MP", warm.took_s, "s", count, target=45.0),
        Figure("upload: sending them", warm.sent_s, "s", count),
        Figure("upload: described of them", warm.pictures, "photos", count, target=count,
               more_is_better=True),
        Figure("upload: memory that the second hundred adds", warm_mb - cold_mb, "MB", 1,
               target=100.0),
    ]  # fmt: skip


def _load_figures(
    app: RunningApp,
    small: dict[str, bytes],
    asked: Sequence[str],
    expected: dict[str, dict[str, Ranking]],
) -> list[Figure]:
    names = list(small)
    stop = threading.Event()

    def upload(turn: int) -> Described:
        visitor = UploadVisitor(app.address)
        chosen = names[turn * PHOTOS_AN_UPLOAD : (turn + 1) * PHOTOS_AN_UPLOAD]
        sent_s = visitor.send({name: small[name] for name in chosen})
        done = visitor.describe()
        done.sent_s = sent_s
        visitor.close()
        return done

    def search(turn: int) -> Searches:
        return search_until(app.address, asked[turn::SEARCHERS], expected, _PAUSE_S, stop)

    with ThreadPoolExecutor(SEARCHERS) as searching, ThreadPoolExecutor(UPLOADS) as uploading:
        searches = [searching.submit(search, turn) for turn in range(SEARCHERS)]
        try:
            uploads = list(uploading.map(upload, range(UPLOADS)))
        finally:
            stop.set()
        results = [future.result() for future in searches]
    took = [ms for result in results for ms in result.took_ms]
    failed = [sentence for result in results for sentence in result.failed]
    wrong = [query for result in results for query in result.wrong]
    finished = [done.waited_s + done.took_s for done in uploads]
    count = len(took) + len(failed)
    return [
        Figure("load: search p50", median(took), "ms", count),
        Figure("load: search p95", quantiles(took, n=100)[94], "ms", count, target=1000.0),
        Figure("load: slowest search", max(took), "ms", count),
        Figure("load: searches without an answer", len(failed), "", count, target=0.0),
        Figure("load: wrong answers", len(wrong), "", count, target=0.0),
        Figure("load: last upload done", max(finished), "s", UPLOADS),
        Figure("load: photos described", sum(d.pictures for d in uploads), "photos", UPLOADS,
               target=float(len(small)), more_is_better=True),
        Figure("load: uploads that found their own photos only",
               sum(d.own_found for d in uploads), "", UPLOADS, target=float(UPLOADS),
               more_is_better=True),
        Figure("load: last place that the queue told", max(max(d.places, default=0)
               for d in uploads), "", UPLOADS),
    ]  # fmt: skip
