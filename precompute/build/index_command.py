"""The command ``index``: other indexes for a gallery that is built, nothing captioned again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.quiet import quiet_libraries
from precompute.terminal import ProfileOption, one_sentence, say

if TYPE_CHECKING:
    import numpy as np

    from core.gallery.manifest import Manifest
    from core.gallery.reader import Gallery
    from core.models.profiles import Models
    from core.models.spec import TextEncoder
    from core.records import ImageRecord, IndexKind, Lens
    from core.search.engines.entry import IndexEntry

_TEXTS = 1_000
_ROWS_SENT = 10_000


class IndexChoice(str, Enum):
    """Kinds of index (:data:`core.records.IndexKind`), known without importing them."""

    auto = "auto"
    flat = "flat"
    ivf = "ivf"
    ivfsq8 = "ivfsq8"
    ivfpq = "ivfpq"
    hnsw = "hnsw"
    milvus = "milvus"

    @property
    def kinds(self) -> tuple[IndexKind, ...]:
        """The kind that is asked for; none for ``auto``."""
        from core.records import INDEX_KINDS

        return tuple(kind for kind in INDEX_KINDS if kind == self.value)


IndexOption = Annotated[
    IndexChoice,
    typer.Option(
        help="Kind of index. auto: flat and ivf up to 25,000 pictures, else the first of ivf, "
        "ivfsq8 and ivfpq that weighs at most 1 GiB."
    ),
]
IndexGbOption = Annotated[
    float,
    typer.Option(
        min=0.01, help="GiB that an index chosen by auto may weigh: it is soon in memory whole."
    ),
]


def run(
    gallery: Annotated[Path, typer.Argument(help="Folder of a gallery.")],
    index: IndexOption = IndexChoice.auto,
    index_gb: IndexGbOption = 1.0,
    profile: ProfileOption = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP model that built it, if not the profile's.")
    ] = None,
) -> None:
    """Give a gallery other indexes; captions and embeddings stay as they are."""
    with one_sentence("Stopped. The gallery is as it was."):
        from core.config import get_settings
        from core.models.choose import with_clip
        from core.models.profiles import PROFILES, Models

        settings = get_settings()
        name = profile.value if profile else settings.profile
        quiet_libraries(downloads=name == "full")
        chosen = with_clip(PROFILES[name], clip or settings.clip)
        manifest = reindex(gallery, Models(chosen), index, round(index_gb * 2**30), say)
        for lens, entries in manifest.indexes.items():
            for entry in entries:
                typer.echo(f"{lens}: {describe(entry)}")


def file_kinds(index: IndexChoice) -> tuple[IndexKind, ...]:
    """Return the kinds that a build makes; none to choose by size.

    Raises:
        QueryError: A collection, which only a gallery that is built can fill.
    """
    from core.errors import QueryError

    if index is IndexChoice.milvus:
        raise QueryError("Build the gallery first, then: python -m precompute index --index milvus")
    return index.kinds


def chosen_kinds(
    index: IndexChoice, size: int, dim: int, index_bytes: int
) -> tuple[IndexKind, ...]:
    """Return the kinds that an option stands for.

    Args:
        index: The option.
        size: Number of vectors.
        dim: Length of the longest.
        index_bytes: What an index may weigh.
    """
    from core.search.engines.training import kinds_for

    return index.kinds or kinds_for(size, dim, index_bytes)


def query_texts(
    sentence: TextEncoder, clip: TextEncoder, records: Sequence[ImageRecord]
) -> Mapping[Lens, Sequence[np.ndarray]]:
    """Return queries to measure the indexes with, as visitors may ask; none for a small gallery.

    Words lie farther from the vectors than these from each other, in both lenses, so that a search
    by words has to look into more clusters than one by a held-out vector.

    Args:
        sentence: Of the gallery.
        clip: Likewise.
        records: Whose captions the queries are made of.

    Returns:
        By lens, each of the sorts of :func:`as_asked`: float32 (q, dim).
    """
    from core.search.engines.training import FLAT_UP_TO

    if len(records) <= FLAT_UP_TO:
        return {}
    rows = range(0, len(records), max(1, len(records) // _TEXTS))
    found = as_asked(records[row].caption for row in rows[:_TEXTS])
    sorts = [texts for texts in found if texts]  # all captions may be blank
    return {
        "captions": [sentence.encode_text(texts) for texts in sorts],
        "clip": [clip.encode_text(texts) for texts in sorts],
    }


def as_asked(captions: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return queries made of captions: short ones, and composed ones that no picture answers.

    A caption's first third, but three words or more, lies as far from its own picture's vector as
    what others say of pictures does. With another caption's last third behind it, it asks for what
    is in no picture, as visitors do. None comes twice.
    """
    words = [caption.split() for caption in captions]
    begins = [own[: max(3, len(own) // 3)] for own in words]
    ends = [own[-max(3, len(own) // 3) :] for own in words]
    half = len(words) // 2
    composed = zip(begins, ends[half:] + ends[:half], strict=True)
    return _distinct(begins), _distinct(begin + end for begin, end in composed)


def _distinct(texts: Iterable[list[str]]) -> list[str]:
    return [text for text in dict.fromkeys(" ".join(words) for words in texts) if text]


def reindex(
    folder: Path, models: Models, index: IndexChoice, index_bytes: int, say: Callable[[str], None]
) -> Manifest:
    """Replace the indexes of a gallery; the files of kinds that it has already are kept.

    How much effort those need is found anew, as for an index that is built today.

    The new files are written first and the manifest last, so that the gallery is whole whenever
    this stops. An app that has it open goes on with the old files.

    Args:
        folder: The gallery.
        models: That built it.
        index: Which kind.
        index_bytes: What an index may weigh.
        say: Receives messages on progress.

    Returns:
        The manifest as written.

    Raises:
        GalleryError: It cannot be opened.
        OSError: A file could not be written.
    """
    from core.files import fsync
    from core.gallery.index_files import measured_again, write_indexes
    from core.gallery.layout import index_files
    from core.gallery.manifest import FileRef, Manifest
    from core.gallery.reader import Gallery
    from core.records import LENSES

    Manifest.read(folder).check_models(folder, models.profile)
    gallery = Gallery.open(folder, None)
    old = gallery.manifest
    vectors = {lens: gallery.indexed_vectors(lens)[0] for lens in LENSES}
    longest = max(rows.shape[1] for rows in vectors.values())
    kinds = chosen_kinds(index, len(vectors["captions"]), longest, index_bytes)
    if kinds == ("milvus",):  # beside what it has: the settings say which is searched
        fill_milvus(gallery, say)
        kinds = (*kinds, *(kind for kind in old.index_kinds if kind != "milvus"))
    missing = [kind for kind in kinds if kind not in (*old.index_kinds, "milvus")]
    texts = query_texts(models.sentence, models.clip, gallery.records)
    entries: dict[Lens, tuple[IndexEntry, ...]] = {}
    for lens in LENSES:
        words = texts.get(lens, ())
        kept = {entry.kind: entry for entry in old.indexes_of(lens)}
        for kind in (kind for kind in kinds if kind in kept):
            say(f"{lens}, {kind}: searching at rising effort ...")
            kept[kind] = measured_again(folder, old, lens, vectors[lens], kept[kind], words)
        made, _ = write_indexes(folder, lens, vectors[lens], missing, words, say)
        kept |= {entry.kind: entry for entry in made}
        if "milvus" in kinds:
            kept["milvus"] = _milvus_entry(kept.values())
        entries[lens] = tuple(kept[kind] for kind in kinds)
    unused = set(index_files(old.index_kinds)) - set(index_files(kinds))
    files = {name: ref for name, ref in old.files.items() if name not in unused}
    files |= {name: FileRef.of(folder / name) for name in index_files(missing)}
    fsync(folder)
    changed = {"files": dict(sorted(files.items())), "indexes": entries}
    manifest = old.model_copy(update=changed).write(folder)
    for name in unused:
        (folder / name).unlink(missing_ok=True)
    return manifest


def fill_milvus(gallery: Gallery, say: Callable[[str], None]) -> None:
    """Copy a gallery's vectors, ids and licences into its collections, made anew.

    Raises:
        QueryError: TWOLENS_MILVUS_URI is not set.
        GalleryError: Several captions of a picture are indexed, which a collection cannot.
        IndexUnavailableError: The server does not answer.
    """
    from core.errors import GalleryError
    from core.gallery.index_files import collection_of
    from core.records import LENSES

    for lens in LENSES:
        vectors, owners = gallery.indexed_vectors(lens)
        if owners is not None:
            raise GalleryError(gallery.folder, "Milvus holds one caption a picture; pool by mean.")
        collection = collection_of(gallery.manifest, lens)
        collection.create(len(vectors))
        for start in range(0, len(vectors), _ROWS_SENT):
            rows = range(start, min(start + _ROWS_SENT, len(vectors)))
            ids = gallery.ids[start : rows.stop]
            licences = [record.license for record in gallery.records[start : rows.stop]]
            collection.add(rows, vectors[start : rows.stop], ids, licences)
            say(f"{lens}: {rows.stop:,} of {len(vectors):,} vectors sent ...")
        collection.finish()
        collection.close()


def _milvus_entry(others: Iterable[IndexEntry]) -> IndexEntry:
    """Take nprobe from the gallery's own IVF index, which has as many clusters."""
    from core.search.engines.entry import IndexEntry

    tuned = next((entry for entry in others if entry.nlist and entry.effort), None)
    return IndexEntry(kind="milvus", effort=tuned.effort if tuned else None)


def describe(entry: IndexEntry) -> str:
    """Return a sentence about an index."""
    from core.search.engines.training import LEAST_MEASURED

    if entry.kind == "flat":
        return "flat: exact, compares a query with every vector."
    if entry.kind == "milvus":
        return "milvus: all vectors are in its collection, whose recall is not measured."
    if entry.recall is None:
        count = entry.nlist or 0
        clusters = f" of {count:,} cluster{'' if count == 1 else 's'}" if count else ""
        return (
            f"{entry.kind}{clusters}: built; its recall is not measured, as that takes at least "
            f"{LEAST_MEASURED:,} vectors."
        )
    point = next(point for point in entry.curve if point.effort == entry.effort)
    name = "efSearch" if entry.kind == "hnsw" else "nprobe"
    of = f" of {entry.nlist:,}" if entry.nlist else ""
    return (
        f"{entry.kind}, {name} {entry.effort:,}{of}: recall@10 {entry.recall:.3f} on "
        f"{entry.queries:,} held-out {entry.query_origin}, compared with {point.compared:.2%} of "
        "the vectors."
    )
