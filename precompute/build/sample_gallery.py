"""The gallery that is served when none is given: photos that ship inside installed packages.

``sample_photos.json`` beside this file says which, under what licence, and what people wrote of
them. The photos stay where they are; only their packages bring them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from core.errors import GalleryError, ManifestMismatchError, SourceError
from core.gallery.figures.metrics_file import METRICS_FILE, Metrics
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES, Profile
from core.records import SAMPLE_NAME
from precompute.evaluate.written_queries.written import written_sha256

if TYPE_CHECKING:
    from precompute.build.workspace import Workspace

logger = logging.getLogger("twolens")

_LIST = Path(__file__).with_name("sample_photos.json")
_REPOSITORY = Path(__file__).resolve().parents[2]
_STOP_S = 10
_SHOWN_AT_ONCE = 8
"""Photos of a shard: a batch, so that the page can show each as soon as it is described."""


@dataclass(frozen=True, slots=True)
class PackagedPhoto:
    """A photo inside an installable package; logos, textures and drawings are left out.

    Attributes:
        name: What it is called in the gallery, without its suffix; unique.
        package: Import name of the package.
        path: Where the photo lies in it.
        license: Its own, or the package's.
        source_url: Where it comes from: the photo's own page, or the package's.
        captions: What five people would say of it.
        nouns: Words of which a right caption names one: the photo's main thing.
    """

    name: str
    package: str
    path: str
    license: str
    source_url: str
    captions: tuple[str, ...]
    nouns: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of its file in the gallery."""
        return self.name + Path(self.path).suffix

    def find(self) -> Path | None:
        """Return its file; None if the package is not installed, or has it no more."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.path
            if path.is_file():
                return path
        return None


@cache
def packaged_photos() -> tuple[PackagedPhoto, ...]:
    """Return the photos of the list, whether or not their packages are installed."""
    listed = json.loads(_LIST.read_text(encoding="utf-8"))
    photos = []
    for photo in listed["photos"]:
        package = listed["packages"][photo["package"]]
        from_package = f"{package['license']} (of the package {package['distribution']})"
        photos.append(
            PackagedPhoto(
                name=photo["name"],
                package=photo["package"],
                path=photo["path"],
                license=photo.get("license", from_package),
                source_url=photo.get("source_url", package["source_url"]),
                captions=tuple(photo["captions"]),
                nouns=tuple(photo["nouns"].split()),
            )
        )
    return tuple(photos)


def stage(photos: Sequence[PackagedPhoto], folder: Path) -> Path:
    """Copy photos into one folder, with what is known of them in ``metadata.jsonl``.

    Args:
        photos: Those whose package is not installed are left out.
        folder: Replaced if it is there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for photo in photos:
        path = photo.find()
        if path is None:
            continue
        shutil.copy2(path, folder / photo.file_name)  # a build can go on where the file is the same
        about = {
            "file_name": photo.file_name,
            "license": photo.license,
            "source_url": photo.source_url,
            "captions": photo.captions,
        }
        lines.append(json.dumps(about))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class SampleGallery:
    """The default gallery in the user's cache, and the processes that build and measure it.

    A gallery in the cache that is damaged, or that other models built, is replaced: it is ours, and
    nothing in it came from anyone else.

    Args:
        cache_dir: The user's cache folder for this program.
        profile: The models that will search it.
        limit: Most photos; None takes all.

    Attributes:
        folder: Where it is, or will be.
        total: Number of its photos.
        done: How many of them were described so far.
        shown: Those that can be shown: caption by id, "" while it is being written.
        trouble: Why it will not come, if its owner says so.

    Raises:
        SourceError: No installed package holds a photo.
    """

    def __init__(self, cache_dir: Path, profile: Profile, limit: int | None = None) -> None:
        """Find the photos; build nothing."""
        self.photos = [photo for photo in packaged_photos() if photo.find() is not None][:limit]
        if not self.photos:
            raise SourceError(
                "No gallery was given and no installed package holds photos for a default one. "
                "Build one with: python -m precompute build PHOTOS --out galleries/mine, then run: "
                "python app.py --gallery galleries/mine"
            )
        self.profile = profile
        self.total, self.done, self.trouble = len(self.photos), 0, ""
        self.shown: Mapping[str, str] = {}
        self._thumbnails: dict[str, bytes] = {}
        name = f"{profile.name}-{_digest(self.photos)}"
        self.folder = cache_dir / "galleries" / name / SAMPLE_NAME
        self._staged = cache_dir / "photos" / name / SAMPLE_NAME
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    @property
    def unusable(self) -> str | None:
        """Why the gallery in the cache cannot be served, or None if it can."""
        if not self.folder.exists():
            return "first start"
        try:
            if not Gallery.open(self.folder, self.profile).manifest.captioned_by(
                self.profile.captioner
            ):
                return "the captioner has changed"
        except ManifestMismatchError as error:
            return f"the {'format has' if error.field == 'format' else 'models have'} changed"
        except GalleryError as error:
            return str(error)
        return None

    @property
    def measured(self) -> bool:
        """Whether it was evaluated, by all queries that are written for its photos today."""
        try:
            metrics = Metrics.model_validate_json((self.folder / METRICS_FILE).read_bytes())
        except (OSError, ValidationError):
            return False
        return metrics.provenance.written_sha256 == written_sha256(SAMPLE_NAME)

    def build(self) -> None:
        """Build it by ``python -m precompute build``, whose words go to the terminal.

        Raises:
            SourceError: It could not be built, or was stopped.
        """
        reason = self.unusable
        if reason is None:
            return
        logger.info("building the default gallery of %d photos (%s)", len(self.photos), reason)
        stage(self.photos, self._staged)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["build", str(self._staged), "--out", str(self.folder)]
        arguments += ["--profile", self.profile.name, "--shard-size", str(_SHOWN_AT_ONCE)]
        arguments += ["--overwrite"] if self.folder.exists() else []
        status = self._run([*arguments, *self._models("captioner", "clip")])
        if status != 0:
            raise SourceError(
                "The default gallery could not be built; the terminal says why. To serve another "
                "one, run: python app.py --gallery DIR"
            )
        shutil.rmtree(self._staged.parent, ignore_errors=True)

    def thumbnail(self, image_id: str) -> bytes | None:
        """Return the thumbnail, webp, of a photo of ``shown``; None for another."""
        return self._thumbnails.get(image_id)

    def measure(self) -> None:
        """Evaluate it on what people wrote of its photos; a failure is said, and no more."""
        if self.measured:
            return
        arguments = ["evaluate", str(self.folder), "--profile", self.profile.name]
        if self._run([*arguments, *self._models("clip")]) != 0 and not self._stopped:
            logger.warning("the default gallery could not be measured; the lines above say why")

    def stop(self) -> None:
        """End the process that builds or measures; what it finished is kept for the next start."""
        with self._lock:
            self._stopped = True
            running = self._running
        if running is None:
            return
        running.terminate()
        try:
            running.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            running.kill()

    def _run(self, arguments: Sequence[str]) -> int:
        from precompute.build.workspace import Workspace

        workspace = Workspace(self.folder.resolve())
        command = [sys.executable, "-m", "precompute", *arguments]
        with self._lock:
            if self._stopped:
                return -1
            self._running = subprocess.Popen(command, cwd=_REPOSITORY)
        while True:
            try:
                return self._running.wait(0.5)
            except subprocess.TimeoutExpired:
                self.follow(workspace)

    def follow(self, workspace: Workspace) -> None:
        """Remember what a build has done so far; its workspace goes when it is finished."""
        with suppress(OSError):  # it may be going at this moment
            for path in workspace.thumbnails():
                if path.stem not in self._thumbnails and (content := path.read_bytes()):
                    self._thumbnails[path.stem] = content  # else it is being written
        self.done = max(self.done, min(len(self._thumbnails), self.total))
        captions = {record.id: record.caption for record in workspace.described()}
        if captions or not self.shown:
            self.shown = {image_id: captions.get(image_id, "") for image_id in self._thumbnails}

    def _models(self, *kinds: str) -> list[str]:
        """Return the options for models that are not a profile's own."""
        own = [spec for known in PROFILES.values() for spec in (known.captioner, known.clip)]
        options = []
        for kind in kinds:
            spec = self.profile.captioner if kind == "captioner" else self.profile.clip
            if spec not in own:
                at = f"@{spec.revision}" if spec.revision else ""
                options += [f"--{kind}", spec.source + at]
        return options


def _digest(photos: Sequence[PackagedPhoto]) -> str:
    found = ((photo, photo.find()) for photo in photos)
    facts = "\n".join(f"{photo}:{path.stat().st_size}" for photo, path in found if path)
    return hashlib.sha256(facts.encode()).hexdigest()[:8]
