"""What a gallery is made of: its sources, its models, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from core.errors import IncompleteGalleryError, ManifestMismatchError, ModelNotFoundError
from core.files import sha256_of, write_atomically
from core.gallery.folder import GalleryFolder, damaged
from core.gallery.layout import (
    LARGE_FOLDER,
    MANIFEST_FILE,
    REQUIRED_FILES,
    index_files,
    shard_file,
    shards_of,
)
from core.models.locate import revision_of
from core.models.spec import ModelSpec
from core.models.text_reader import READER_LICENCE, READER_PACKAGE
from core.records import INDEX_PAIR, CaptionPooling, IndexKind, Lens
from core.search.engines.entry import IndexEntry

if TYPE_CHECKING:
    from core.models.profiles import Profile
    from core.models.text_reader import ReadsText

FORMAT: Literal[2] = 2
"""Version of the layout on disk; a program reads its own version only."""

_UNSEALED = 64 * "0"

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
    model_config = ConfigDict(frozen=True, extra="forbid")


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
        revision: What pins its weights (:func:`core.models.locate.revision_of`).
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

    @classmethod
    def of_package(cls, reader: ReadsText) -> ModelRef:
        """Describe a reader of text, whose models come with the package that runs them."""
        return cls(
            name=reader.name,
            source=f"package:{READER_PACKAGE}",
            revision=reader.revision,
            licence=READER_LICENCE,
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


class FileRef(_Frozen):
    """One file of a gallery.

    Attributes:
        sha256: Of its content.
        bytes: Its size.
    """

    sha256: Sha256
    bytes: int = Field(ge=0)

    @classmethod
    def of(cls, path: Path) -> FileRef:
        """Describe a file as it is now."""
        return cls(sha256=sha256_of(path), bytes=path.stat().st_size)


class Manifest(_Frozen):
    """Provenance of a gallery and the sha256 and size of every file in it.

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
        text_reader: Read the text in the pictures; None if it was not looked for.
        counts: What became of the source's files.
        indexes: Of each lens, the best first, the same kinds for both; without it the pair.
        files: Each file but the manifest, by its name in the folder.
        self_sha256: Of the manifest's own bytes, with 64 zeros in this place; None until it is
            written.
    """

    format: Literal[2] = FORMAT
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
    text_reader: ModelRef | None = None
    counts: Counts
    indexes: dict[Lens, tuple[IndexEntry, ...]] = Field(default_factory=dict)
    files: dict[Annotated[str, AfterValidator(_inside)], FileRef]
    self_sha256: Sha256 | None = None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a gallery's manifest; nothing else in the folder is looked at.

        Raises:
            GalleryNotFoundError: No such folder.
            IncompleteGalleryError: No manifest in it.
            CorruptGalleryError: The manifest is not JSON, not a manifest, or was changed.
            ManifestMismatchError: Another format version.
        """
        return cls.parse(folder, read_manifest(GalleryFolder(folder)))

    @classmethod
    def parse(cls, folder: Path, content: bytes) -> Manifest:
        """Return the manifest that :func:`read_manifest` read; raises as :meth:`read` does."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise damaged(folder, f"{MANIFEST_FILE} is not JSON") from error
        manifest = cls._validated(folder, values)
        digest = manifest.self_sha256
        if digest is None:
            raise damaged(folder, f"{MANIFEST_FILE} holds no digest of itself (self_sha256)")
        if digest != _self_digest(content, digest):
            raise damaged(folder, f"{MANIFEST_FILE} is not the file that was built")
        count = max(1, len(manifest.shards))
        shards = (shard_file(number, count) for number in range(count))
        for name in (*REQUIRED_FILES, *index_files(manifest.index_kinds), *shards):
            if name not in manifest.files:
                raise damaged(folder, f"{MANIFEST_FILE} does not name {name}")
        return manifest

    @classmethod
    def _validated(cls, folder: Path, content: Any) -> Manifest:  # noqa: ANN401 - any JSON
        if not isinstance(content, dict):
            raise damaged(folder, f"{MANIFEST_FILE} is not a JSON object")
        # Before validation: another version has other fields, and a list of those says nothing.
        found = content.get("format")
        if isinstance(found, int) and found != FORMAT:
            convert = f"Convert it with: python -m precompute convert {folder}. "
            remedy = convert if found == 1 else ""
            raise ManifestMismatchError(folder, "format", FORMAT, found, remedy)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise damaged(
                folder, f"{MANIFEST_FILE} is not valid at {field}: {first['msg']}"
            ) from error

    def indexes_of(self, lens: Lens) -> tuple[IndexEntry, ...]:
        """Return what is known of a lens's indexes, the best first."""
        return self.indexes.get(lens) or tuple(IndexEntry(kind=kind) for kind in INDEX_PAIR)

    @property
    def index_kinds(self) -> tuple[IndexKind, ...]:
        """The kinds of index, the best first."""
        return tuple(entry.kind for entry in self.indexes_of("clip"))

    @property
    def shards(self) -> list[str]:
        """Names of the files that hold records and thumbnails, in order."""
        return shards_of(self.files)

    @property
    def large_shards(self) -> list[str]:
        """Names of the files that hold large copies, in order; none if none are kept."""
        return shards_of(self.files, LARGE_FOLDER)

    def write(self, folder: Path) -> Manifest:
        """Write the manifest whole, forced to disk: from here on the folder is a gallery.

        Returns:
            The manifest as written, with its :attr:`self_sha256`.
        """
        content, digest = sealed(self.model_dump(mode="json"))
        write_atomically(folder / MANIFEST_FILE, content)
        return self.model_copy(update={"self_sha256": digest})

    def captioned_by(self, captioner: ModelSpec) -> bool:
        """Tell whether this captioner, at its revision of now, wrote the gallery's captions."""
        try:
            return self.captioner is not None and self.captioner.revision == revision_of(captioner)
        except ModelNotFoundError:
            return False

    def check_models(self, folder: Path, profile: Profile) -> None:
        """Check that the models that will embed the queries embedded the gallery.

        Raises:
            ManifestMismatchError: Another sentence encoder or CLIP model, by dim or revision.
            ModelNotFoundError: The profile's own models are not there.
        """
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


def read_manifest(folder: GalleryFolder) -> bytes:
    """Return the bytes of a gallery's manifest.

    Raises:
        IncompleteGalleryError: There is none.
        GalleryError: It cannot be read.
    """
    try:
        return folder.read(MANIFEST_FILE).tobytes()
    except FileNotFoundError as error:
        if folder.holds_photos():
            raise IncompleteGalleryError(
                folder.path,
                f"{folder.path} is a folder of photos, not a gallery. Make one of it: python -m "
                f"precompute build {folder.path} --out galleries/{folder.path.name}, then python "
                f"app.py --gallery galleries/{folder.path.name}",
            ) from error
        raise IncompleteGalleryError(
            folder.path,
            f"{folder.path} has no {MANIFEST_FILE}: its build did not finish, or it is no "
            f"gallery. Build it with: python -m precompute build SOURCE --out {folder.path} "
            "--overwrite",
        ) from error


def sealed(values: dict[str, Any]) -> tuple[bytes, str]:
    """Return a manifest's bytes, and the ``self_sha256`` that they hold.

    Args:
        values: All fields, as JSON has them; ``self_sha256`` is replaced.
    """
    unsealed = json.dumps({**values, "self_sha256": _UNSEALED}, indent=2, ensure_ascii=False)
    content = (unsealed + "\n").encode()
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(_seal(_UNSEALED), _seal(digest)), digest


def _self_digest(content: bytes, digest: str) -> str:
    return hashlib.sha256(content.replace(_seal(digest), _seal(_UNSEALED))).hexdigest()


def _seal(digest: str) -> bytes:
    """Return the field as it stands in the file; the quotes inside a text would be escaped."""
    return f'"self_sha256": "{digest}"'.encode()


def now() -> datetime:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)
