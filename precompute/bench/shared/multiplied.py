"""A gallery of a size that nobody has at hand, made of a small one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.records import LENSES, ImageRecord, Lens, RecordSequence
from precompute.bench.shared.figures import Say

if TYPE_CHECKING:
    import numpy as np

    from core.gallery.reader import Gallery
    from core.models.profiles import Models

_SEED = 0
_ROWS_AT_ONCE = 50_000


class MadeRecords(RecordSequence):
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

    def made(self, row: int) -> ImageRecord:
        """Make one."""
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


def multiplied(
    gallery: Gallery, pictures: int, out: Path, folder: Path, models: Models | None, say: Say
) -> None:
    """Write a gallery of many pictures whose embeddings lie as those of a small one do.

    Each embedding lies between one of the small gallery's and one of its nearest neighbours, with
    noise (:func:`precompute.evaluate.index_curve.enlarged`). Captions and thumbnails are those of
    the picture that it begins from. A batch of rows at a time is in memory.

    Args:
        gallery: The small one, of two or more pictures of one caption each.
        pictures: How many.
        out: A new folder.
        folder: For embeddings while they are made.
        models: Embed shortened captions that the indexes are tuned with, as in a build; None tunes
            them with vectors held out.
        say: Receives messages on progress.
    """
    import numpy as np

    from core.gallery.manifest import Counts, SourceRef, now
    from core.gallery.writer import write_as
    from precompute.build.index_command import query_texts
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
            "name": f"{gallery.name} multiplied",
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
    texts = query_texts(models.sentence, models.clip, records) if models else {}
    write_as(draft, out, records, made, MadeCopies(thumbnails, rows), texts=texts)
