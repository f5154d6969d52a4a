"""The gallery that is served when none is given: photos that ship inside installed packages."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import GalleryError, ManifestMismatchError, SourceError
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES, Profile
from core.records import SAMPLE_NAME

logger = logging.getLogger("twolens")

_CC0 = "CC0"
_PUBLIC_DOMAIN = "public domain"


@dataclass(frozen=True, slots=True)
class PackagedPhoto:
    """A photo inside an installed package; logos, textures and diagrams are left out.

    Attributes:
        package: Import name of the package.
        path: Where the photo lies in it.
        licence: As the package states it, or None where it states none.
        source_url: Where the package says that it comes from, or None.
    """

    package: str
    path: str
    licence: str | None = None
    source_url: str | None = None


PHOTOS = (
    PackagedPhoto("gradio", "media_assets/images/cheetah.jpg"),
    PackagedPhoto("gradio", "media_assets/images/cheetah1.jpg"),
    PackagedPhoto("gradio", "media_assets/images/lion.jpg"),
    PackagedPhoto("gradio", "media_assets/images/tower.jpg"),
    PackagedPhoto(
        "sklearn",
        "datasets/images/china.jpg",
        "CC BY 2.0",
        "https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/",
    ),
    PackagedPhoto(
        "sklearn",
        "datasets/images/flower.jpg",
        "CC BY 2.0",
        "https://www.flickr.com/photos/vultilion/6056698931/sizes/z/in/photostream/",
    ),
    PackagedPhoto("skimage", "data/astronaut.png", _PUBLIC_DOMAIN, "https://flic.kr/p/r9qvLn"),
    PackagedPhoto("skimage", "data/camera.png", _CC0),
    PackagedPhoto("skimage", "data/chelsea.png", _CC0),
    PackagedPhoto("skimage", "data/coffee.png", _CC0),
    PackagedPhoto(
        "skimage",
        "data/coins.png",
        "no known copyright restrictions",
        "https://www.brooklynmuseum.org/opencollection/archives/image/51611",
    ),
    PackagedPhoto(
        "skimage",
        "data/hubble_deep_field.jpg",
        _PUBLIC_DOMAIN,
        "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
    ),
    PackagedPhoto("skimage", "data/moon.png"),
    PackagedPhoto(
        "skimage",
        "data/motorcycle_left.png",
        None,
        "http://vision.middlebury.edu/stereo/data/scenes2014/",
    ),
    PackagedPhoto(
        "skimage",
        "data/rocket.jpg",
        _PUBLIC_DOMAIN,
        "https://www.flickr.com/photos/spacexphotos/16511594820/in/photostream/",
    ),
)


def default_gallery(cache_dir: Path, profile: Profile) -> Path:
    """Return the folder of the default gallery, building it if it is not there as needed.

    The build is ``python -m precompute build`` in a process of its own, whose progress goes to
    the terminal. A gallery in the cache that is damaged, or that other models built, is replaced:
    it is ours, and nothing in it came from anyone else.

    Args:
        cache_dir: The user's cache folder for this program.
        profile: The models that will search it.

    Raises:
        SourceError: No installed package holds a photo, or the build failed.
    """
    photos = list(installed_photos())
    if not photos:
        raise SourceError(
            "No gallery was given and no installed package holds photos for a default one. "
            "Build one with: python -m precompute build PHOTOS --out galleries/mine, then run: "
            "python app.py --gallery galleries/mine"
        )
    out = cache_dir / "galleries" / f"{profile.name}-{digest_of(photos)}" / SAMPLE_NAME
    reason = why_unusable(out, profile)
    if reason is None:
        return out
    logger.info("building the default gallery of %d photos (%s)", len(photos), reason)
    staged = stage_photos(photos, cache_dir / "photos" / SAMPLE_NAME)
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "precompute", "build", str(staged), "--out", str(out)]
    command += ["--profile", profile.name, *(["--overwrite"] if out.exists() else [])]
    own = [spec for known in PROFILES.values() for spec in (known.captioner, known.clip)]
    for option, spec in (("--captioner", profile.captioner), ("--clip", profile.clip)):
        if spec not in own:
            command += [option, f"{spec.source}@{spec.revision}" if spec.revision else spec.source]
    built = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], check=False)
    if built.returncode != 0:
        raise SourceError(
            "The default gallery could not be built; the lines above say why. To serve another "
            "one, run: python app.py --gallery DIR"
        )
    return out


def installed_photos() -> Iterator[tuple[PackagedPhoto, Path]]:
    """Yield the photos of packages that are installed, and where they lie."""
    for photo in PHOTOS:
        spec = importlib.util.find_spec(photo.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / photo.path
            if path.is_file():
                yield photo, path
                break


def digest_of(photos: list[tuple[PackagedPhoto, Path]]) -> str:
    """Return 8 hex digits that change with the photos, so that another set is another gallery."""
    names = "\n".join(f"{photo}:{path.stat().st_size}" for photo, path in photos)
    return hashlib.sha256(names.encode()).hexdigest()[:8]


def why_unusable(folder: Path, profile: Profile) -> str | None:
    """Return why a gallery in the cache cannot be served, or None if it can."""
    if not folder.exists():
        return "first start"
    try:
        if not Gallery.open(folder, profile).manifest.captioned_by(profile.captioner):
            return "the captioner has changed"
    except ManifestMismatchError:
        return "the models have changed"
    except GalleryError as error:
        return str(error)
    return None


def stage_photos(photos: list[tuple[PackagedPhoto, Path]], folder: Path) -> Path:
    """Copy the photos into one folder, with what is known about them in ``metadata.jsonl``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for photo, path in photos:
        shutil.copyfile(path, folder / path.name)
        about = {
            "file_name": path.name,
            "license": photo.licence,
            "source_url": photo.source_url,
        }
        lines.append(json.dumps(about))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
