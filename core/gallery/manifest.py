"""What a gallery is made of: its sources, its models, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from core.errors import (
    CorruptGalleryError,
    GalleryNotFoundError,
    IncompleteGalleryError,
    ManifestMismatchError,
    ModelNotFoundError,
)
from core.files import sha256_of, write_atomically
from core.gallery.layout import MANIFEST_FILE, REQUIRED_FILES, THUMBNAILS_FOLDER
from core.models.spec import ModelSpec
from core.models.weights import revision_of
from core.records import CaptionPooling

if TYPE_CHECKING:
    from core.models.profiles import Profile

FORMAT: Literal[1] = 1
"""Version of the layout on disk; a program reads its own version only."""

Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


def _inside(name: str) -> str:
    """Refuse a file name that could point outside the gallery's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or ".." in path.parts or path.as_posix() != name:
        raise ValueError(f"the file name {name[:80]!r} leads out of the gallery's folder")
    if not name.isprintable() or name in (".", MANIFEST_FILE) or ":" in name:
        raise ValueError(f"the file name {name[:80]!r} is not allowed")
    return name


def _named(name: str) -> str:
    if not name.isprintable() or "/" in name or "\\" in name or name.strip(" .") != name:
        raise ValueError(f"{name[:80]!r} cannot be the name of a gallery")
    return name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SourceRef(_Frozen):
    """Where the pictures came from.

    Attributes:
        kind: What read it, e.g. ``folder``, ``imagefolder``, ``dataset`` or ``upload``.
        id: Name of the folder or Hugging Face id; shown to visitors, so never a full path.
        split: Of a dataset.
        revision: Commit of a Hub dataset.
        image_column: Of a dataset.
        caption_column: Column of the given or the reference captions.
        limit: Most pictures that were read; None reads all.
    """

    kind: str
    id: str
    split: str | None = None
    revision: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    limit: int | None = None


class ModelRef(_Frozen):
    """Which model, exactly, made a part of the gallery; see :class:`core.models.spec.ModelSpec`.

    Attributes:
        name: What the page calls it.
        source: Where its files are.
        revision: What pins its weights (:func:`core.models.weights.revision_of`).
        dim: Length of the embedding; None for a captioner.
        precision: Of the weights in memory, where the device supported it.
        licence: Of the weights, as their authors state it.
        note: What a reader should know about licence or data, or "".
        base: What an adapter was put onto; None for a whole checkpoint.
    """

    name: str
    source: str
    revision: str
    dim: int | None = None
    precision: str = "fp32"
    licence: str = ""
    note: str = ""
    base: ModelRef | None = None

    @classmethod
    def of(cls, spec: ModelSpec) -> ModelRef:
        """Describe a model by its spec and the revision of its weights.

        Raises:
            ModelNotFoundError: Its files are not there.
        """
        return cls(
            name=spec.name,
            source=_without_folders(spec.source),
            revision=revision_of(spec),
            dim=spec.dim,
            precision=spec.precision,
            licence=spec.licence,
            note=spec.note,
            base=cls.of(spec.base) if spec.base else None,
        )


def _without_folders(source: str) -> str:
    """Leave a server's own folders out of what visitors may read."""
    kind, _, rest = source.partition(":")
    return f"path:{Path(rest).name}" if kind == "path" else source


class Counts(_Frozen):
    """What became of the source's files.

    Attributes:
        images: Pictures in the gallery.
        duplicates: Files left out because another has the same bytes.
        skipped: Files left out because they cannot be used.
    """

    images: int = Field(ge=0)
    duplicates: int = Field(default=0, ge=0)
    skipped: int = Field(default=0, ge=0)


class Manifest(_Frozen):
    """Provenance of a gallery and the sha256 of every file in it.

    Attributes:
        format: :data:`FORMAT`.
        name: Of the gallery.
        created_at: When the build finished, in UTC.
        source: Where the pictures came from.
        profile: Name of the profile that built it.
        captioner: Wrote the captions; None if the source gave them.
        sentence: Embedded the captions.
        clip: Embedded the images.
        caption_origin: ``generated``, or ``column:NAME`` of the source.
        captions_per_image: Most captions that an image has.
        caption_pooling: How the caption lens indexes several.
        counts: What became of the source's files.
        thumbnails_sha256: See :func:`thumbnails_digest`.
        files: sha256 of each file but the manifest and the thumbnails, by its name in the folder.
    """

    format: Literal[1] = FORMAT
    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_named)]
    created_at: datetime
    source: SourceRef
    profile: str
    captioner: ModelRef | None
    sentence: ModelRef
    clip: ModelRef
    caption_origin: Annotated[str, Field(pattern=r"\A(generated|column:.+)\z")] = "generated"
    captions_per_image: int = Field(default=1, ge=1)
    caption_pooling: CaptionPooling = "mean"
    counts: Counts
    thumbnails_sha256: Sha256
    files: dict[Annotated[str, AfterValidator(_inside)], Sha256]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a gallery's manifest; nothing else in the folder is looked at.

        Raises:
            GalleryNotFoundError: No such folder.
            IncompleteGalleryError: No manifest in it.
            CorruptGalleryError: The manifest is not JSON, or not a manifest.
            ManifestMismatchError: Another format version.
        """
        if not folder.is_dir():
            raise GalleryNotFoundError(
                folder,
                f"There is no gallery folder {folder}. "
                f"Build it with: python -m precompute build SOURCE --out {folder}",
            )
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise IncompleteGalleryError(
                folder,
                f"{folder} has no {MANIFEST_FILE}: its build did not finish, or it is no gallery. "
                f"Build it with: python -m precompute build SOURCE --out {folder} --overwrite",
            )
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            reason = f"cannot be read ({error})" if isinstance(error, OSError) else "is not JSON"
            raise damaged(folder, f"{MANIFEST_FILE} {reason}") from error
        return cls._parse(folder, content)

    @classmethod
    def _parse(cls, folder: Path, content: Any) -> Manifest:  # noqa: ANN401 - any JSON
        if not isinstance(content, dict):
            raise damaged(folder, f"{MANIFEST_FILE} is not a JSON object")
        # Before validation: another version has other fields, and a list of those says nothing.
        found = content.get("format")
        if isinstance(found, int) and found != FORMAT:
            raise ManifestMismatchError(folder, "format", FORMAT, found)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise damaged(
                folder, f"{MANIFEST_FILE} is not valid at {field}: {first['msg']}"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the manifest whole, forced to disk: from here on the folder is a gallery."""
        content = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_atomically(folder / MANIFEST_FILE, (content + "\n").encode())

    def verify(self, folder: Path, profile: Profile) -> None:
        """Check that every file is the one that was built, and by models that answer now.

        Args:
            folder: The gallery's folder. Every file in it that the manifest covers is read once.
            profile: The models that will embed the queries.

        Raises:
            ManifestMismatchError: Another sentence encoder or CLIP model, by dim or revision.
            CorruptGalleryError: A file is missing, or its content is not what was built.
            ModelNotFoundError: The profile's own models are not there.
        """
        self._verify_models(folder, profile)
        for name in REQUIRED_FILES:
            if name not in self.files:
                raise damaged(folder, f"{MANIFEST_FILE} does not name {name}")
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise damaged(folder, f"{name} is missing")
            if sha256_of(path) != expected:
                raise damaged(folder, f"{name} is not the file that was built")
        count, digest = thumbnails_digest(folder)
        if digest != self.thumbnails_sha256:
            raise damaged(
                folder,
                f"the thumbnails are not the ones that were built "
                f"({count} there, {self.counts.images} built)",
            )

    def captioned_by(self, captioner: ModelSpec) -> bool:
        """Tell whether this captioner, at its revision of now, wrote the gallery's captions."""
        try:
            return self.captioner is not None and self.captioner.revision == revision_of(captioner)
        except ModelNotFoundError:
            return False

    def _verify_models(self, folder: Path, profile: Profile) -> None:
        for field, ref, spec in (
            ("sentence", self.sentence, profile.sentence),
            ("clip", self.clip, profile.clip),
        ):
            needed = ModelRef.of(spec)
            if (ref.dim, ref.revision) == (needed.dim, needed.revision):
                continue
            if self.profile != profile.name:
                raise ManifestMismatchError(folder, "profile", profile.name, self.profile)
            if ref.dim != needed.dim:
                raise ManifestMismatchError(folder, f"{field}.dim", needed.dim, ref.dim)
            raise ManifestMismatchError(folder, f"{field}.revision", needed.revision, ref.revision)


def thumbnails_digest(folder: Path) -> tuple[int, str]:
    """Return how many thumbnails a gallery folder holds, and one sha256 over all of them.

    The digest covers the sorted names, relative to ``thumbnails/``, and the sha256 of each file.
    """
    root = folder / THUMBNAILS_FOLDER
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.webp")}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}:{sha256_of(files[name])}\n".encode())
    return len(files), digest.hexdigest()


def now() -> datetime:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def damaged(folder: Path, what: str) -> CorruptGalleryError:
    """Return the error for a gallery that is damaged, with what to run."""
    return CorruptGalleryError(
        folder,
        f"Gallery {folder.name} is damaged: {what}. "
        f"Build it again with: python -m precompute build SOURCE --out {folder} --overwrite",
    )
