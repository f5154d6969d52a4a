"""A gallery's maps on disk: one array a lens, and how they were made; all named in the manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from core.config import get_settings
from core.errors import CorruptGalleryError, GalleryError
from core.files import write_atomically
from core.gallery.caption_rows import CaptionRows
from core.gallery.figures.metrics_file import METRICS_FILE
from core.gallery.folder import GalleryFolder
from core.gallery.manifest import FileRef, Manifest, read_manifest
from core.gallery.parts import check_files, is_mapped, read_embeddings, read_pictures
from core.gallery.reader import Gallery
from core.gallery.writer import write_array
from core.map.layout import MOST_PICTURES, MapLayout, lay_out
from core.records import LENSES, ImageRecord, Lens

MAP_FILE = "map.json"
"""How the maps were made."""


def map_file(lens: Lens) -> str:
    """Return the name of a lens's map: float32 (n, 2), row i = record i."""
    return f"map.{lens}.npy"


MAP_FILES = (MAP_FILE, *(map_file(lens) for lens in LENSES))


@dataclass(frozen=True, slots=True)
class GalleryMap:
    """The maps of a gallery as its folder has them.

    Attributes:
        coordinates: As :class:`core.map.layout.MapLayout` has them.
        method: Likewise.
        version: Changes whenever the maps do.
    """

    coordinates: Mapping[Lens, np.ndarray]
    method: str
    version: str


_READ: WeakKeyDictionary[Gallery, GalleryMap | None] = WeakKeyDictionary()


def write_map(
    folder: Path, records: Sequence[ImageRecord], captions: np.ndarray, clip: np.ndarray
) -> tuple[str, ...]:
    """Lay pictures out and write the maps into a folder that becomes a gallery.

    Args:
        folder: Of the gallery, not yet finished.
        records: n pictures.
        captions: float32 (captions, dim), unit norm, in the order of
            :class:`core.gallery.caption_rows.CaptionRows`.
        clip: float32 (n, dim), unit norm.

    Returns:
        Names of the files, for the manifest; none where the gallery is too large for a map.
    """
    if len(records) > MOST_PICTURES:
        return ()
    means = CaptionRows.of(records).mean(captions, folder)
    _write(folder, lay_out({"captions": means, "clip": clip}))
    return MAP_FILES


def add_map(folder: Path) -> MapLayout:
    """Lay out the pictures of a finished gallery, and name the maps in its manifest.

    Figures that were measured on the gallery stay its figures: they name the new manifest.

    Raises:
        GalleryError: It is no gallery, not as it was built, too large for a map, or not writable.
    """
    embeddings = embeddings_of(folder)
    count = len(embeddings["captions"])
    if count > MOST_PICTURES:
        raise GalleryError(
            folder,
            f"{folder} has {count:,} pictures; a map holds at most {MOST_PICTURES:,}.",
        )
    layout = lay_out(embeddings)
    before = read_manifest(GalleryFolder(folder))
    manifest = Manifest.parse(folder, before)
    try:
        _write(folder, layout)
        written = {name: FileRef.of(folder / name) for name in MAP_FILES}
        named = dict(sorted({**manifest.files, **written}.items()))
        manifest.model_copy(update={"files": named}).write(folder)
        _carry_figures(folder, before)
    except OSError as error:
        raise GalleryError(
            folder, f"The maps could not be written into {folder} ({error.strerror})."
        ) from error
    return layout


def embeddings_of(folder: Path) -> dict[Lens, np.ndarray]:
    """Return the embeddings that a gallery's maps show: of each picture, float32 (n, dim).

    Raises:
        GalleryError: It is no gallery, or not as it was built.
    """
    held = GalleryFolder(folder)
    manifest = Manifest.parse(folder, read_manifest(held))
    mapped = is_mapped(manifest, get_settings().verify_up_to_bytes)
    check_files(held, manifest, mapped=mapped, read=True)
    rows = read_pictures(held, manifest, mapped=mapped).caption_rows
    captions = read_embeddings(held, manifest, "captions", len(rows), mapped=mapped)
    clip = read_embeddings(held, manifest, "clip", rows.images, mapped=mapped)
    return {"captions": rows.mean(captions), "clip": clip}


def read_map(gallery: Gallery) -> GalleryMap | None:
    """Return the maps of an open gallery, read once; None if it was built without.

    Raises:
        CorruptGalleryError: They are not the ones that its manifest names.
        GalleryError: They cannot be read.
    """
    if gallery not in _READ:
        _READ[gallery] = _read(gallery)
    return _READ[gallery]


def _read(gallery: Gallery) -> GalleryMap | None:
    files = gallery.manifest.files
    if any(name not in files for name in MAP_FILES):
        return None
    about = json.loads(_verified(gallery, MAP_FILE))
    coordinates: dict[Lens, np.ndarray] = {}
    for lens in LENSES:
        name = map_file(lens)
        rows = np.load(io.BytesIO(_verified(gallery, name)), allow_pickle=False)
        if rows.dtype != np.float32 or rows.shape != (len(gallery), 2):
            raise CorruptGalleryError(gallery.folder, f"{name} is not a map of its pictures")
        rows.setflags(write=False)
        coordinates[lens] = rows
    version = "".join(files[map_file(lens)].sha256[:8] for lens in LENSES)
    return GalleryMap(coordinates, str(about.get("method", "")), version)


def _verified(gallery: Gallery, name: str) -> bytes:
    content = gallery.read_beside(name)
    if (
        content is None
        or hashlib.sha256(content).hexdigest() != gallery.manifest.files[name].sha256
    ):
        raise CorruptGalleryError(gallery.folder, f"{name} is not the file that was built")
    return content


def _write(folder: Path, layout: MapLayout) -> None:
    for lens in LENSES:
        write_array(folder / map_file(lens), layout.coordinates[lens])
    content = json.dumps({"method": layout.method}, indent=1) + "\n"
    write_atomically(folder / MAP_FILE, content.encode())


def _carry_figures(folder: Path, before: bytes) -> None:
    """Let figures that name the manifest of before name that of now."""
    path = folder / METRICS_FILE
    old = hashlib.sha256(before).hexdigest().encode()
    if not path.is_file():
        return
    figures = path.read_bytes()
    now = hashlib.sha256(read_manifest(GalleryFolder(folder))).hexdigest().encode()
    if old in figures:
        write_atomically(path, figures.replace(old, now))
