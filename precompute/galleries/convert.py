"""The command ``convert``: a gallery of format 1 becomes one of today's format, in its place."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import CorruptGalleryError, GalleryError
from precompute.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from core.gallery.dataset.records import Records
    from core.gallery.manifest import Manifest
    from precompute.build.workspace import Workspace

_RECORDS, _LARGE = "records.parquet", "large.json"
_OWN = {"files", "format", "self_sha256", "thumbnails_sha256"}


def run(
    gallery: Annotated[Path, typer.Argument(help="Gallery that an earlier version built.")],
) -> None:
    """Convert a gallery to the format of today, in its place; its pictures are not described anew.

    Every file is verified before. Its figures (metrics.json) stay.
    """
    from core.files import local_path

    manifest = convert(local_path(str(gallery)))
    if manifest is None:
        say(f"{gallery} has the format of today: nothing to do.")
    else:
        say(f"{gallery} has {manifest.counts.images:,} pictures, in format {manifest.format} now.")


def convert(folder: Path) -> Manifest | None:
    """Write a gallery of format 1 anew and put it into its place.

    Returns:
        The new manifest, or None of a gallery that has the format of today.

    Raises:
        GalleryError: Its format is not known, it is being built, or cannot be written.
        CorruptGalleryError: A file of it is not the one that was built.
    """
    from precompute.build.workspace import Workspace

    folder = folder.resolve()
    content = _old_manifest(folder)
    if content is None:
        return None
    old = json.loads(content)
    workspace = Workspace(folder)
    try:
        with workspace.locked():
            if not workspace.holds({}):
                raise GalleryError(
                    folder,
                    f"A build of {folder} was interrupted: give its command again, or delete "
                    f"{workspace.root}.",
                )
            shutil.rmtree(workspace.gallery, ignore_errors=True)
            workspace.gallery.mkdir()
            manifest = _write(folder, old, workspace)
            _keep_figures(folder, content, workspace.gallery)
            workspace.publish()
    except OSError as error:
        raise GalleryError(folder, f"{folder} could not be converted: {error}.") from error
    return manifest


def _old_manifest(folder: Path) -> bytes | None:
    """Return a manifest of format 1, whose seal is whole, or None of one of today's."""
    from core.gallery.folder import GalleryFolder
    from core.gallery.manifest import FORMAT, read_manifest

    content = read_manifest(GalleryFolder(folder))
    try:
        old = json.loads(content)
        found, digest = old["format"], old["self_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptGalleryError(folder, "manifest.json is not a manifest") from error
    if found == FORMAT:
        return None
    if found != 1:
        raise GalleryError(folder, f"{folder} has format {found!r}, which is not known here.")
    unsealed = content.replace(f'"{digest}"'.encode(), f'"{64 * "0"}"'.encode())
    if hashlib.sha256(unsealed).hexdigest() != digest:
        raise CorruptGalleryError(folder, "manifest.json is not the file that was built")
    return content


def _write(folder: Path, old: Mapping[str, Any], workspace: Workspace) -> Manifest:
    import numpy as np
    from pydantic import ValidationError

    from core.files import sha256_of
    from core.gallery.layout import REQUIRED_FILES, embeddings_file
    from core.gallery.manifest import Manifest
    from core.gallery.writer import write_as
    from core.records import LENSES

    for name, digest in old["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise CorruptGalleryError(folder, f"{name} is not the file that was built")
    records = _records(folder)
    copies = _OldCopies(folder)
    if copies.digest(record.id for record in records) != old["thumbnails_sha256"]:
        raise CorruptGalleryError(folder, "the thumbnails are not the ones that were built")
    try:
        draft = Manifest(**{**{k: v for k, v in old.items() if k not in _OWN}, "files": {}})
    except (ValidationError, TypeError) as error:
        raise CorruptGalleryError(folder, "manifest.json is not a manifest of format 1") from error
    extra = [
        name
        for name in old["files"]
        if name not in (_RECORDS, _LARGE) and name not in REQUIRED_FILES
    ]
    for name in extra:
        (workspace.gallery / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, workspace.gallery / name)
    arrays = {lens: np.load(folder / embeddings_file(lens), mmap_mode="r") for lens in LENSES}
    return write_as(draft, workspace.gallery, records, arrays, copies, extra)


def _records(folder: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from core.gallery.dataset.records import Records, records_schema

    try:
        with (folder / _RECORDS).open("rb") as file:
            return Records(pq.read_table(file, schema=records_schema()))
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise CorruptGalleryError(folder, f"{_RECORDS} is not a table of pictures") from error


class _OldCopies:
    """The pictures of a gallery of format 1: a file each, and the hashes of the large ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / _LARGE
        self._large = json.loads(path.read_bytes()) if path.is_file() else {}

    def digest(self, image_ids: Iterable[str]) -> str:
        """Return the sha256 over the names and hashes of all thumbnails."""
        from core.files import sha256_of
        from core.gallery.layout import thumbnail_file

        digest = hashlib.sha256()
        for name in sorted(map(thumbnail_file, image_ids)):
            path = self._folder / name
            if path.is_file():
                digest.update(f"{name.partition('/')[2]}:{sha256_of(path)}\n".encode())
        return digest.hexdigest()

    def thumbnail(self, image_id: str) -> bytes:
        """Return a picture's thumbnail."""
        from core.gallery.layout import thumbnail_path

        return thumbnail_path(self._folder, image_id).read_bytes()

    def large(self, image_id: str) -> bytes | None:
        """Return a picture's large copy, if it is there: a copy from the Hub has none."""
        from core.gallery.layout import large_file

        path = self._folder / large_file(image_id)
        if image_id not in self._large or not path.is_file():
            return None
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self._large[image_id]:
            raise CorruptGalleryError(self._folder, f"{path.name} in large is not the one built")
        return content


def _keep_figures(folder: Path, content: bytes, new: Path) -> None:
    """Copy ``metrics.json``, bound to the new manifest if it was bound to the old one."""
    from core.files import sha256_of, write_atomically
    from core.gallery.figures.metrics_file import METRICS_FILE
    from core.gallery.layout import MANIFEST_FILE

    path = folder / METRICS_FILE
    if path.is_file():
        old, now = hashlib.sha256(content).hexdigest(), sha256_of(new / MANIFEST_FILE)
        kept = path.read_bytes().replace(old.encode(), now.encode())
        write_atomically(new / METRICS_FILE, kept)
