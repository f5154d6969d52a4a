"""The command ``doctor``: everything that can be wrong with a gallery, each with what to run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import CorruptGalleryError, GalleryError, ManifestMismatchError, ModelError
from core.gallery.layout import LARGE_FOLDER
from core.quiet import quiet_libraries
from core.records import LENSES, Lens
from precompute import terminal

if TYPE_CHECKING:
    import numpy as np

    from core.gallery.folder import GalleryFolder
    from core.gallery.manifest import Manifest
    from core.gallery.parts import Pictures
    from core.gallery.reader import Gallery
    from core.models.profiles import Profile
    from core.search.engines.protocol import VectorIndex
    from core.search.index import Index

_SAMPLED_QUERIES = 64
_DEPTH = 10
_LEAST_RECALL = 0.7
"""Of rows of the gallery at an index's own effort; one of other embeddings finds next to none."""
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        said: What was found, right or wrong.
        remedy: What to run; "" if nothing is wrong.
    """

    check: str
    said: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """The finding on one line."""
        if not self.remedy:
            return f"ok     {self.check}: {self.said}"
        return f"WRONG  {self.check}: {self.said}. {self.remedy}."


def run(
    gallery: Annotated[Path, typer.Argument(help="Gallery to examine.")],
    profile: terminal.ProfileOption = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP model that is to search it, if not the profile's.")
    ] = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Examine a gallery whole, and this machine; say for each fault what to run.

    One line a check. The exit status is 1 if something is wrong.
    """
    from core.config import get_settings
    from core.files import local_path
    from core.models.choose import with_clip
    from core.models.profiles import PROFILES

    quiet_libraries(downloads=False)
    settings = get_settings()
    named = PROFILES[profile.value if profile else settings.profile]
    chosen = with_clip(named, clip or settings.clip)
    wrong = False
    for finding in examine(local_path(str(gallery)), chosen, device):
        typer.echo(finding.line)
        wrong = wrong or bool(finding.remedy)
    if wrong:
        raise typer.Exit(1)


def examine(folder: Path, profile: Profile, device: str = "auto") -> Iterator[Finding]:
    """Check a gallery, and what this machine brings to search it.

    Args:
        folder: The gallery.
        profile: The models that shall search it.
        device: Where they shall run.

    Raises:
        GalleryNotFoundError: No such folder.
        IncompleteGalleryError: It holds no gallery.
    """
    from core.gallery.folder import GalleryFolder
    from core.gallery.manifest import Manifest, read_manifest

    held = GalleryFolder(folder)
    content = read_manifest(held)
    try:
        manifest = Manifest.parse(folder, content)
    except CorruptGalleryError as error:
        yield Finding("manifest", error.what, _rebuild(folder))
    except ManifestMismatchError as error:
        yield Finding("manifest", str(error), "Nothing else was looked at")
    else:
        images = f"{manifest.counts.images:,} pictures"
        yield Finding("manifest", f"{manifest.name}, {images}, {manifest.created_at:%Y-%m-%d}")
        yield _files(held, manifest)
        pictures, finding = _records(held, manifest)
        yield finding
        if pictures is not None:
            findings = [_embeddings(held, manifest, lens, pictures) for lens in LENSES]
            yield from findings
            if not any(finding.remedy for finding in findings):
                yield from _indexes(folder)
        yield _models(folder, manifest, profile)
        yield from _figures(held, content)
    yield from _machine(profile, device)


def _rebuild(folder: Path) -> str:
    return f"Run: python -m precompute build SOURCE --out {folder} --overwrite"


def _files(held: GalleryFolder, manifest: Manifest) -> Finding:
    """Hash every file; a copy from the Hub comes without large pictures."""
    has_large = held.has_folder(LARGE_FOLDER)
    troubles, size, count = [], 0, 0
    for name, ref in manifest.files.items():
        if name.startswith(f"{LARGE_FOLDER}/") and not has_large:
            continue
        try:
            held.verify(name, ref)
        except CorruptGalleryError as error:
            troubles.append(error.what)
        count, size = count + 1, size + ref.bytes
    if troubles:
        return Finding("files", "; ".join(troubles), _rebuild(held.path))
    return Finding("files", f"{count} with the sha256 of the manifest, {size / 1e6:,.1f} MB")


def _records(held: GalleryFolder, manifest: Manifest) -> tuple[Pictures | None, Finding]:
    from core.gallery.dataset.records import check_records
    from core.gallery.parts import read_pictures

    pictures = None
    try:
        pictures = read_pictures(held, manifest, mapped=True)
        check_records(pictures.records, sampled=False)
        for row in range(len(pictures.records)):
            pictures.thumbnails.image(row)
    except CorruptGalleryError as error:
        return pictures, Finding("records", error.what, _rebuild(held.path))
    except ValueError as error:
        return pictures, Finding("records", str(error), _rebuild(held.path))
    count = len(pictures.records)
    return pictures, Finding("records", f"{count:,} rows, each with its id and a thumbnail")


def _embeddings(held: GalleryFolder, manifest: Manifest, lens: Lens, pictures: Pictures) -> Finding:
    import numpy as np

    from core.gallery.parts import read_embeddings
    from core.search.index import NORM_TOLERANCE

    check = f"embeddings of {lens}"
    count = len(pictures.caption_rows) if lens == "captions" else len(pictures.records)
    try:
        rows = read_embeddings(held, manifest, lens, count, mapped=True)
    except CorruptGalleryError as error:
        return Finding(check, error.what, _rebuild(held.path))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        norms = np.sqrt(np.einsum("nd,nd->n", some, some))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
        if wrong.size:
            row = int(wrong[0])
            said = f"row {start + row} has norm {norms[row]:.4g}, not 1"
            return Finding(check, said, _rebuild(held.path))
    return Finding(check, f"{len(rows):,} rows of {rows.shape[1]}, all of unit norm")


def _indexes(folder: Path) -> Iterator[Finding]:
    """Ask each index for the neighbours of some rows, and count those that flat finds."""
    import numpy as np

    from core.gallery.reader import Gallery

    try:
        gallery = Gallery.open(folder, None, verify_up_to=0)
    except GalleryError:
        return  # the lines above say why
    if not len(gallery):
        return
    rows = np.linspace(0, len(gallery) - 1, min(len(gallery), _SAMPLED_QUERIES), dtype=np.int64)
    for lens in LENSES:
        queries = gallery.embeddings(lens)[rows]
        exact = _found(_exact(gallery, lens), queries)
        for kind in gallery.index_kinds:
            check = f"index {lens}.{kind}"
            try:
                found = _found(gallery.index(lens, kind), queries)
            except CorruptGalleryError as error:
                yield Finding(check, error.what, _rebuild(folder))
                continue
            shares = [len(a & b) / len(a) for a, b in zip(exact, found, strict=True)]
            said = f"finds {np.mean(shares):.1%} of the {_DEPTH} nearest of {len(rows)} pictures"
            yield Finding(check, said, _rebuild(folder) if np.mean(shares) < _LEAST_RECALL else "")


def _exact(gallery: Gallery, lens: Lens) -> Index:
    from core.search.index import Index

    rows = gallery.caption_rows
    if lens == "captions" and gallery.manifest.caption_pooling == "best" and not rows.single:
        return Index(gallery.caption_embeddings, gallery.ids, rows.owners)
    return Index(gallery.embeddings(lens), gallery.ids)


def _found(index: VectorIndex, queries: np.ndarray) -> list[set[str]]:
    return [{hit.id for hit in hits} for hits in index.search(queries, _DEPTH)]


def _models(folder: Path, manifest: Manifest, profile: Profile) -> Finding:
    try:
        manifest.check_models(folder, profile)
    except ManifestMismatchError as error:
        said = f"{error.field} is {error.found!r}, but {error.expected!r} searches it here"
        remedy = (
            f"Give --profile {manifest.profile} and the --clip that built it, here and to app.py, "
            f"or build it again: python -m precompute build SOURCE --out {folder} --overwrite"
        )
        return Finding("models", said, remedy)
    except ModelError as error:
        return Finding("models", str(error).rstrip("."), "Run: pip install -r requirements.txt")
    refs = [ref for ref in (manifest.captioner, manifest.sentence, manifest.clip) if ref]
    said = ", ".join(f"{ref.name} at {ref.revision[:16]}" for ref in refs)
    if manifest.captioner is None or manifest.captioned_by(profile.captioner):
        return Finding("models", said)
    return Finding("models", f"{said}; new photos get their captions by {profile.captioner.name}")


def _figures(held: GalleryFolder, content: bytes) -> Iterator[Finding]:
    """Tell whether ``metrics.json``, if there is one, is of this build."""
    from core.gallery.figures.metrics_file import METRICS_FILE, Metrics

    evaluate = f"Run: python -m precompute evaluate {held.path}"
    try:
        metrics = Metrics.model_validate_json(held.read(METRICS_FILE).tobytes())
    except FileNotFoundError:
        return
    except ValueError:
        yield Finding("figures", f"{METRICS_FILE} cannot be read", evaluate)
        return
    if metrics.provenance.manifest_sha256 != hashlib.sha256(content).hexdigest():
        yield Finding("figures", f"{METRICS_FILE} is of another build", evaluate)
    else:
        yield Finding("figures", f"{METRICS_FILE} is of this build")


def _machine(profile: Profile, device: str) -> Iterator[Finding]:
    import torch

    from core.models.captioner.loading import supported_precision
    from core.models.devices import resolve_device
    from core.models.eight_bit import products_run_in_8_bits

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(count))
    try:
        chosen = resolve_device(device)
    except ModelError as error:
        yield Finding("device", str(error).rstrip("."), "Take --device auto")
        chosen = resolve_device("auto")
    else:
        yield Finding("device", f"{chosen} ({names or 'no GPU'})")
    wanted = profile.captioner.precision
    runs = supported_precision(wanted, chosen)
    said = f"{profile.captioner.name} runs in {runs} on {chosen}"
    lacks = wanted == "int8" and runs != wanted and chosen != "cpu"
    yield Finding("captioner", said, "Run: pip install bitsandbytes" if lacks else "")
    in_8_bits = products_run_in_8_bits()
    yield Finding("int8 on the CPU", "yes" if in_8_bits else "no: image towers run in float32")
