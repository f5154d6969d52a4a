"""The hidden sibling in which a gallery grows, shard by shard, until it is renamed into place.

::

    .NAME.building/
      lock                 held by the process that builds
      plan.json            what is being built; another plan starts over
      shards/00000.captions.npy  00000.clip.npy
      shards/00000.json    records and report of the shard: the marker, written last
      copies/              thumbnails, and the large copies that are kept
      gallery/             once all shards are there
      publishing.json      hash of the finished manifest, just before the rename
    .NAME.finished/        the same, on its way out when the gallery is in place

A process killed at any moment leaves shards that are whole or without a marker. The lock
keeps two builds of one gallery from meeting.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from core.errors import GalleryError, GalleryExistsError
from core.files import fsync, sha256_of, write_atomically
from core.gallery.copies import copy_folders
from core.gallery.layout import (
    LARGE_FOLDER,
    MANIFEST_FILE,
    REQUIRED_FILES,
    THUMBNAILS_FOLDER,
    index_files,
    shards_of,
)
from core.map.stored import MAP_FILES
from core.records import INDEX_KINDS, LENSES, Lens
from precompute.build.shards.shard import Shard
from precompute.sources.photo_folders.system_files import is_system_file

if TYPE_CHECKING:
    import numpy as np

    from core.records import ImageRecord

REPORT_FILE = "build_report.json"
_LOCK_FILE = "lock"
_PLAN_FILE = "plan.json"
_PUBLISHING_FILE = "publishing.json"
_OWN_NAMES = {
    *(MANIFEST_FILE, REPORT_FILE, "metrics.json", *REQUIRED_FILES, LARGE_FOLDER),
    *index_files(INDEX_KINDS),
    *MAP_FILES,
    *(THUMBNAILS_FOLDER, "records.parquet", "large.json"),  # of galleries of format 1
}


class Workspace:
    """A gallery in the making.

    Args:
        out: Folder that the gallery will be, resolved.
    """

    def __init__(self, out: Path) -> None:
        """Name the folders; create nothing.

        Raises:
            GalleryError: ``out`` is the root folder, beside which no work can be done.
        """
        if not out.name:
            raise GalleryError(out, f"{out} cannot be a gallery: name a folder below it.")
        self.out = out
        self.root = out.with_name(f".{out.name}.building")
        self.gallery = self.root / "gallery"
        self.copies = self.root / "copies"
        self._shards = self.root / "shards"
        self._replaced = out.with_name(f".{out.name}.replaced")
        self._finished = out.with_name(f".{out.name}.finished")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace; on an error before the first finished shard, leave nothing behind.

        Raises:
            GalleryError: Another build holds it, or it cannot be made.
        """
        try:
            created = [folder for folder in self.root.parents if not folder.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GalleryError(
                self.out, f"{self.out} cannot be written ({error.strerror})."
            ) from error
        lock = FileLock(self.root / _LOCK_FILE, blocking=False)
        try:
            lock.acquire()
            held = os.stat(lock.lock_file)
        except (Timeout, FileNotFoundError) as error:  # it may be on its way out at this moment
            raise GalleryError(
                self.out, f"Another build of {self.out} is running; wait for it to finish."
            ) from error
        try:
            yield
        finally:
            if self._is_held(held) and not any(self._shards.glob("*.json")):
                shutil.rmtree(self.root, ignore_errors=True)
                for folder in created:
                    with suppress(OSError):
                        folder.rmdir()
            lock.release()

    def _is_held(self, held: os.stat_result) -> bool:
        """Tell whether the lock that is held is the folder's of that name now."""
        try:
            return os.path.samestat(held, os.stat(self.root / _LOCK_FILE))
        except FileNotFoundError:
            return False

    def check_out(self, *, overwrite: bool, updates: bool = False) -> None:
        """Refuse to write over what is there.

        Args:
            overwrite: Whether a gallery is replaced.
            updates: Whether one with a manifest is updated, which is decided elsewhere.

        Raises:
            GalleryExistsError: A gallery is there, and replacing it was not asked for.
            GalleryError: Something else is there, which is never replaced.
        """
        out = self.out
        if not os.path.lexists(out) or self.is_published():
            return
        if not out.is_dir():
            raise GalleryError(out, f"{out} is a file; a gallery is a folder.")
        if out.is_mount():
            raise GalleryError(out, f"{out} is a mount point; name a folder inside it.")
        if not any(out.iterdir()):
            return
        if (foreign := _not_of_a_gallery(out)) is not None:
            raise GalleryError(
                out,
                f"{out} holds files that are not a gallery's, such as {foreign}, so it is not "
                "replaced; choose another --out.",
            )
        if not overwrite and not (updates and self.has_gallery()):
            raise GalleryExistsError(
                out,
                f"The gallery {out} exists. Add --overwrite to replace it once the new one is "
                "complete.",
            )

    def recover(self) -> None:
        """Put back the gallery that a killed process had moved aside but not yet replaced."""
        if not self._replaced.exists():
            return
        if os.path.lexists(self.out):
            shutil.rmtree(self._replaced)
        else:
            self._replaced.rename(self.out)

    def is_published(self) -> bool:
        """Tell whether the gallery in place is the one made here, only the tidying left to do."""
        if self._finished.is_dir() and (self.out / MANIFEST_FILE).is_file():
            return True
        try:
            expected = json.loads((self.root / _PUBLISHING_FILE).read_bytes())["manifest_sha256"]
            return sha256_of(self.out / MANIFEST_FILE) == expected
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def has_gallery(self) -> bool:
        """Tell whether a gallery is in place."""
        return (self.out / MANIFEST_FILE).is_file()

    def plan(self) -> dict[str, Any]:
        """Return the plan of the unfinished build that is here; empty for none."""
        return self._found_plan()

    def holds(self, plan: Mapping[str, Any]) -> bool:
        """Tell whether an unfinished build of the same plan is here."""
        return self._found_plan() == _as_read(plan)

    def begin(self, plan: Mapping[str, Any]) -> tuple[str, ...]:
        """Take up the work where it was left if it was the same work, or start over.

        Returns:
            What differs from an unfinished build that is now thrown away: keys of the plan.
        """
        found, plan = self._found_plan(), _as_read(plan)
        differs: tuple[str, ...] = ()
        if found != plan:
            if found:
                differs = tuple(
                    key for key in sorted({*plan, *found}) if plan.get(key) != found.get(key)
                )
            self._clear()
            write_atomically(self.root / _PLAN_FILE, _json(plan))
        self._shards.mkdir(exist_ok=True)
        self.copies.mkdir(exist_ok=True)
        self.gallery.mkdir(exist_ok=True)
        return differs

    def finished(self) -> dict[int, int]:
        """Return the rows of each finished shard by its number, and remove damaged ones."""
        found: dict[int, int] = {}
        for marker in sorted(self._shards.glob("*.json")):
            number = int(marker.stem)
            shard = self._checked(number)
            if shard is None:
                marker.unlink(missing_ok=True)
            else:
                found[number] = shard.rows
        return found

    def shard(self, number: int) -> Shard:
        """Return a finished shard."""
        return Shard.from_json(json.loads(self._marker(number).read_bytes()))

    def embeddings(self, number: int, lens: Lens) -> np.ndarray:
        """Return a finished shard's embeddings of a lens: float32 (n, dim)."""
        import numpy as np

        found: np.ndarray = np.load(self._array(number, lens))
        return found

    def thumbnails(self) -> Iterator[Path]:
        """Go through the thumbnails that were written so far; any process may ask."""
        return (self.copies / THUMBNAILS_FOLDER).glob("*/*.webp")

    def described(self) -> list[ImageRecord]:
        """Return the pictures of the shards that are finished so far; any process may ask."""
        records: list[ImageRecord] = []
        for marker in sorted(self._shards.glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):  # it may be going this moment
                records += Shard.from_json(json.loads(marker.read_bytes())).records
        return records

    def write_shard(self, number: int, shard: Shard, embeddings: Mapping[Lens, np.ndarray]) -> None:
        """Finish a shard: embeddings first, the marker last."""
        import numpy as np

        content = shard.to_json()
        for lens in LENSES:
            buffer = io.BytesIO()
            np.save(buffer, embeddings[lens], allow_pickle=False)
            write_atomically(self._array(number, lens), buffer.getvalue())
            content[lens] = sha256_of(self._array(number, lens))
        for folder in copy_folders(self.copies, [record.id for record in shard.records]):
            fsync(folder)
        write_atomically(self._marker(number), _json(content))

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write ``build_report.json`` into the gallery."""
        write_atomically(self.gallery / REPORT_FILE, _json(report))

    def publish(self) -> None:
        """Rename the finished gallery into place, the old one aside before and away after."""
        digest = sha256_of(self.gallery / MANIFEST_FILE)
        write_atomically(self.root / _PUBLISHING_FILE, _json({"manifest_sha256": digest}))
        if self.out.is_dir() and any(self.out.iterdir()):
            self.out.rename(self._replaced)
        os.rename(self.gallery, self.out)
        fsync(self.out.parent)
        self.tidy()

    def discard(self) -> None:
        """Forget the shards: nothing of this build is worth keeping."""
        shutil.rmtree(self._shards, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the workspace and the gallery that was replaced."""
        if self._replaced.exists():
            shutil.rmtree(self._replaced)
        # A mark of being published stays until last: a restart then knows what is left to do.
        for path in self.root.iterdir():
            if path.name not in (_PUBLISHING_FILE, _LOCK_FILE):
                _remove(path)
        if self._finished.exists():
            shutil.rmtree(self.root)
        else:
            self.root.rename(self._finished)
        shutil.rmtree(self._finished)

    def _found_plan(self) -> dict[str, Any]:
        try:
            found = json.loads((self.root / _PLAN_FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _clear(self) -> None:
        for path in self.root.iterdir():
            if path.name != _LOCK_FILE:
                _remove(path)

    def _checked(self, number: int) -> Shard | None:
        try:
            content = json.loads(self._marker(number).read_bytes())
            for lens in LENSES:
                if sha256_of(self._array(number, lens)) != content[lens]:
                    return None
            return Shard.from_json(content)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _marker(self, number: int) -> Path:
        return self._shards / f"{number:05d}.json"

    def _array(self, number: int, lens: Lens) -> Path:
        return self._shards / f"{number:05d}.{lens}.npy"


def _as_read(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan as it comes back from its file: tuples are lists there."""
    return json.loads(json.dumps(plan))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _not_of_a_gallery(folder: Path) -> str | None:
    """Return the name of something that a replaced gallery would take with it; None for nothing.

    A folder whose manifest is lost or damaged is a gallery by the other names alone.
    """
    own = set(_OWN_NAMES)
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        is_gallery = "self_sha256" in manifest or "thumbnails_sha256" in manifest
        if is_gallery:
            own |= {str(name).partition("/")[0] for name in manifest.get("files", ())}
    except (OSError, ValueError, TypeError, AttributeError):
        is_gallery = False
    names = sorted(path.name for path in folder.iterdir())
    own |= set(shards_of(names))
    partial = {f".{name}.partial" for name in own}
    rest = [name for name in names if name not in own | partial and not is_system_file(name)]
    if not rest and not is_gallery and not own.intersection(REQUIRED_FILES).intersection(names):
        return names[0]
    return rest[0] if rest else None


def _json(content: Mapping[str, Any]) -> bytes:
    # A plan names a folder, whose name may be no text.
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="surrogatepass")
