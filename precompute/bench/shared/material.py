"""What a bench searches, asks and builds: galleries made for the occasion, queries, photos."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import GalleryError
from precompute.bench.shared.running_app import ROOT

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from core.config import ProfileName, Settings
    from core.models.profiles import Profile

_SUBJECTS = ("a dog", "two children", "a man", "an old woman", "a red boat", "a cyclist", "a bird")
_DOINGS = ("running", "waiting", "jumping", "in the snow", "near the water", "at night", "at play")
_PLACES = ("in a street", "on a beach", "in the grass", "by a wall", "under a tree", "on a hill")


@dataclass(frozen=True, slots=True)
class Searched:
    """Which gallery is searched.

    Attributes:
        gallery: This one; None makes one.
        source: Photos with captions that one is made of; None makes it of random vectors.
        profile: Name of the profile.
        images: Pictures of the gallery that is made.
    """

    gallery: Path | None
    source: str | None
    profile: ProfileName
    images: int = 1000


def searched_gallery(options: Searched, profile: Profile, folder: Path) -> tuple[Path, str]:
    """Return a gallery to search, and what it is made of.

    Raises:
        SourceError: The source cannot be read.
        GalleryError: The gallery cannot be built.
    """
    if options.gallery is not None:
        return options.gallery, f"the gallery {options.gallery.name}"
    if options.source is not None:
        from precompute.sources.open import open_source
        from precompute.sources.types import SourceOptions

        column = open_source(SourceOptions(options.source, limit=1)).columns.references
        if column is not None:
            name = column.name
            return _built(options, name, folder), f"{options.source}, captions from {name}"
    return planted_gallery(options.images, profile, folder), "random unit vectors"


def _built(options: Searched, column: str, folder: Path) -> Path:
    out = folder / "searched"
    command = [sys.executable, "-m", "precompute", "build", str(options.source)]
    command += ["--out", str(out), "--captions-from", column, "--limit", str(options.images)]
    command += ["--batch-size", "16", "--profile", options.profile]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        raise GalleryError(out, "The gallery to search could not be built; see above.")
    return out


def planted_gallery(count: int, profile: Profile, folder: Path, asked: int = 0) -> Path:
    """Write a gallery whose vectors are random: how long a search takes does not depend on them.

    Args:
        count: Pictures.
        profile: What embeds the queries.
        folder: Where the gallery is made.
        asked: References in all, each different, five for each of the first pictures.

    Returns:
        The gallery's folder.
    """
    import numpy as np
    import PIL.Image

    from core.gallery.manifest import SourceRef
    from core.gallery.writer import write_gallery
    from core.images.thumbnails import thumbnail_webp
    from core.records import ImageRecord

    out = folder / "searched"
    thumbnail = thumbnail_webp(PIL.Image.new("RGB", (32, 32), "grey"))
    texts = queries(count + asked)
    captions, references = texts[:count], texts[count:]
    records = []
    for number in range(count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        name = f"{number:05d}.jpg"
        own = tuple(references[5 * number : 5 * number + 5])
        records.append(
            ImageRecord(digest[:16], name, digest, 640, 480, captions[number], references=own)
        )
    dice = np.random.default_rng(0)

    def unit(dim: int | None) -> np.ndarray:
        rows = dice.standard_normal((count, dim or 1)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    out.mkdir(parents=True)
    write_gallery(
        out,
        name="bench",
        records=records,
        caption_embeddings=unit(profile.sentence.dim),
        clip_embeddings=unit(profile.clip.dim),
        copies=SameThumbnail(thumbnail),
        profile=profile,
        source=SourceRef(kind="random", id="random unit vectors"),
    )
    return out


@dataclass(frozen=True, slots=True)
class SameThumbnail:
    """One thumbnail for all pictures of a gallery, and no large copies."""

    content: bytes

    def thumbnail(self, image_id: str) -> bytes:
        """Return it."""
        return self.content

    def large(self, image_id: str) -> bytes | None:
        """Return None."""
        return None


def packaged_photos(folder: Path) -> Path:
    """Copy the photos that ship inside installed packages into a new folder; return it."""
    from precompute.build.sample_gallery import packaged_photos as listed

    folder.mkdir()
    for photo in listed():
        path = photo.find()
        if path is not None:
            shutil.copyfile(path, folder / photo.file_name)
    return folder


def decoded_photos(source: str, limit: int, settings: Settings) -> list[Image]:
    """Return the first pictures of a source that can be used, decoded.

    Raises:
        SourceError: The source cannot be read.
    """
    from core.errors import ImageError
    from core.images.decode import DecodeLimits, decode
    from precompute.sources.open import open_source
    from precompute.sources.types import SourceOptions

    images = []
    for row in open_source(SourceOptions(source, limit=limit)).read(0):
        if isinstance(row.content, (bytes, Path)):
            try:
                images.append(decode(row.content, row.file_name, DecodeLimits.of(settings)).image)
            except ImageError:
                continue
    return images


def queries(count: int) -> list[str]:
    """Return that many different texts."""
    texts = [" ".join(words) for words in product(_SUBJECTS, _DOINGS, _PLACES)]
    rounds = -(-count // len(texts))
    numbered = [t if not turn else f"{t}, {turn}" for turn in range(rounds) for t in texts]
    return numbered[:count]
