"""A gallery of a size that nobody has at hand, made of a small one, and what it costs to open."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from core.records import LENSES, ImageRecord, Lens
from precompute.bench.shared.figures import Figure, Say, result
from precompute.bench.shared.running_app import ROOT, running_app

if TYPE_CHECKING:
    import numpy as np

    from core.config import ProfileName
    from core.gallery.reader import Gallery

_SEED = 0
_ROWS_AT_ONCE = 50_000
_ASKED = 40

_OPENING = """
import json, sys, time
from pathlib import Path
import psutil
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES
import numpy, pyarrow, core.search.index
before = psutil.Process().memory_full_info()
started = time.perf_counter()
gallery = Gallery.open(Path(sys.argv[1]), PROFILES[sys.argv[2]])
took = time.perf_counter() - started
after = psutil.Process().memory_full_info()
print(json.dumps([took, (after.rss - before.rss) / 1e6, (after.uss - before.uss) / 1e6]))
"""


class MadeRecords(Sequence[ImageRecord]):
    """Records that are made when asked for: each is one of a small gallery's, under another name.

    Args:
        bases: The small gallery's records.
        rows: Which of them each is made from: int (n,).
    """

    def __init__(self, bases: Sequence[ImageRecord], rows: np.ndarray) -> None:
        """Hold both."""
        self._bases, self._rows = tuple(bases), rows

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, row: slice) -> tuple[ImageRecord, ...]: ...

    def __getitem__(self, row: int | slice) -> ImageRecord | tuple[ImageRecord, ...]:
        """Make one, or some."""
        if isinstance(row, slice):
            return tuple(self[each] for each in range(*row.indices(len(self))))
        row = range(len(self))[row]
        base = self._bases[self._rows[row]]
        digest = hashlib.sha256(f"picture {row}".encode()).hexdigest()
        return ImageRecord(
            *(digest[:16], f"{row:08d}.jpg", digest, base.width, base.height, base.caption),
            caption_flags=base.caption_flags,
            confidence=base.confidence,
            license=base.license,
            source_url=base.source_url,
        )


class MadeCopies:
    """Thumbnails of a small gallery, each with bytes of its own at its end.

    Args:
        thumbnails: Of the small gallery, in row order.
        rows: Which of them each is made from.
    """

    def __init__(self, thumbnails: Sequence[bytes], rows: np.ndarray) -> None:
        """Hold them; rows are asked for in order."""
        self._thumbnails, self._rows = thumbnails, iter(rows)

    def thumbnail(self, image_id: str) -> bytes:
        """Return the next one, with a chunk that readers of webp pass over."""
        content = self._thumbnails[next(self._rows)]
        content += b"TLID" + (16).to_bytes(4, "little") + image_id.encode()
        return content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:]

    def large(self, image_id: str) -> bytes | None:
        """Return None."""
        return None


def scaled_gallery(gallery: Gallery, pictures: int, out: Path, folder: Path, say: Say) -> None:
    """Write a gallery of many pictures whose embeddings lie as those of a small one do.

    Each embedding lies between one of the small gallery's and one of its nearest neighbours, with
    noise (:func:`precompute.evaluate.index_curve.enlarged`). Captions and thumbnails are those of
    the picture that it begins from. A batch of rows at a time is in memory.

    Args:
        gallery: The small one, of two or more pictures of one caption each.
        pictures: How many.
        out: A new folder.
        folder: For embeddings while they are made.
        say: Receives messages on progress.
    """
    import numpy as np

    from core.gallery.manifest import Counts, SourceRef, now
    from core.gallery.writer import write_as
    from precompute.evaluate.index_curve import enlarged

    dice = np.random.default_rng(_SEED)
    rows = dice.integers(len(gallery), size=pictures)
    made: dict[Lens, np.ndarray] = {}
    for lens in LENSES:
        say(f"{pictures:,} embeddings of {lens} ...")
        small = gallery.embeddings(lens)
        path = folder / f"{lens}.npy"
        array = np.lib.format.open_memmap(
            path, "w+", dtype=np.float32, shape=(pictures, small.shape[1])
        )
        for start in range(0, pictures, _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            array[start : start + len(part)] = enlarged(small, len(part), dice, part)
        array.flush()
        made[lens] = np.load(path, mmap_mode="r")
    say(f"{pictures:,} records, thumbnails, indexes ...")
    records = MadeRecords(gallery.records, rows)
    thumbnails = [gallery.read_thumbnail(image_id) for image_id in gallery.ids]
    draft = gallery.manifest.model_copy(
        update={
            "name": f"{gallery.name} scaled",
            "created_at": now(),
            "source": SourceRef(kind="made", id=f"{gallery.manifest.source.id}, multiplied"),
            "counts": Counts(images=pictures),
            "captions_per_image": 1,
            "caption_pooling": "mean",
            "text_reader": None,
            "files": {},
            "self_sha256": None,
        }
    )
    out.mkdir(parents=True)
    write_as(draft, out, records, made, MadeCopies(thumbnails, rows))


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
    from core.models.profiles import PROFILES

    with tempfile.TemporaryDirectory(
        prefix="twolens-bench-", dir=out and out.absolute().parent
    ) as work:
        folder = Path(work)
        large = out or folder / "scaled"
        figures = []
        if not large.exists():
            started = time.perf_counter()
            scaled_gallery(Gallery.open(gallery, PROFILES[name]), pictures, large, folder, say)
            figures.append(Figure("made, indexes trained", time.perf_counter() - started, "s", 1))
        size = sum(path.stat().st_size for path in large.rglob("*") if path.is_file())
        figures.append(Figure("on disk", size / 1e6, "MB", 1))
        first: dict[str, float] = {}
        for title, served in (("small", gallery), ("large", large)):
            say(f"Opening the {title} gallery ...")
            figures += _opened(title, served, name)
            say(f"The app over the {title} gallery ...")
            first[title], app_figures = _served(title, served, name, folder)
            figures += app_figures
        more = first["large"] - first["small"]
        figures.append(Figure("first answer, large minus small", more, "s", 1, target=2.0))
    return result(figures, name, pictures=pictures, made_of=gallery.name)


def _opened(title: str, gallery: Path, name: str) -> Iterator[Figure]:
    """Open a gallery in a process of its own."""
    command = [sys.executable, "-c", _OPENING, str(gallery), name]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    took, resident, own = json.loads(found)
    yield Figure(f"{title}: opened", took, "s", 1, target=3.0)
    yield Figure(f"{title}: memory that opening takes", resident, "MB", 1)
    yield Figure(f"{title}: of it not shared with files", own, "MB", 1)


def _served(
    title: str, gallery: Path, name: ProfileName, folder: Path
) -> tuple[float, list[Figure]]:
    """Start the app over a gallery; return the seconds to its first answer, and the figures."""
    with running_app([gallery], name, "a dog on the beach", folder) as app:
        took = sorted(app.compare(f"a dog near {place}")[1] for place in range(_ASKED))
        memory = app.memory_mb()
        return app.first_answer_s, [
            Figure(f"{title}: app start to first answer", app.first_answer_s, "s", 1),
            Figure(f"{title}: /compare, new query, p50", took[_ASKED // 2], "ms", _ASKED),
            Figure(f"{title}: app memory, with both text encoders", memory, "MB", 1, target=1600),
        ]
