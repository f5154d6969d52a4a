"""What a visitor takes home: the captions as CSV or JSON lines, and the upload as a gallery zip."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import IncompleteGalleryError, UploadError
from core.gallery.copies import CopiesFolder
from core.gallery.manifest import SourceRef
from core.gallery.writer import write_gallery
from core.uploads.limits import disk_trouble

if TYPE_CHECKING:
    from core.models.profiles import Profile
    from core.models.spec import ModelSpec
    from core.records import ImageRecord
    from core.uploads.snapshot import Snapshot

logger = logging.getLogger(__name__)

GALLERY_NAME = "my-photos"
"""Name of the gallery, and of the folder in the zip."""

_COLUMNS = ("id", "file_name", "caption", "caption_flags", "confidence", "width", "height")
# Signs in both widths: a spreadsheet set to Japanese or Chinese calculates the wide ones too.
_SIGN = "[=+\\-@＝＋－＠]"
_FORMULA = re.compile(
    # At the start of a cell, or after what another locale's spreadsheet takes for a cell's end;
    # blanks, invisible characters and quotation marks before the sign are passed over.
    rf"(?P<before>(?:\A|[;|\t\r\n])[\s\u200b-\u200f\u2060\ufeff\"']{{0,99}})(?={_SIGN})"
    r"|\A(?=[\t\r\n])"
)


def captions_csv(records: Iterable[ImageRecord]) -> str:
    """Return one row a picture: id, file_name, caption, caption_flags, confidence, width, height.

    Where a spreadsheet would take a part of a text for a formula, the part gets an apostrophe in
    front: it begins with ``=``, ``+``, ``-`` or ``@`` (of either width) after blanks or quotation
    marks, at the start of the text or after a semicolon, bar, tab or line break, any of which may
    end a cell elsewhere. :func:`captions_jsonl` has every text as it is.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(_COLUMNS)
    for record in records:
        row = {**asdict(record), "caption_flags": " ".join(record.caption_flags)}
        writer.writerow([_no_formula(row[column]) for column in _COLUMNS])
    return buffer.getvalue()


def captions_jsonl(records: Iterable[ImageRecord]) -> str:
    """Return one JSON object a line and picture: the columns of the CSV and the sha256."""
    columns = (*_COLUMNS, "sha256")
    lines = (
        json.dumps({column: row[column] for column in columns}, ensure_ascii=False)
        for row in (asdict(record) for record in records)
    )
    return "".join(f"{line}\n" for line in lines)


def write_gallery_zip(
    snapshot: Snapshot, profile: Profile, captioner: ModelSpec, folder: Path
) -> Path:
    """Write an upload as a zip that holds one gallery folder, ready for ``--gallery``.

    Args:
        snapshot: The pictures; a removed one is not among them.
        profile: The models that embedded them.
        captioner: What wrote the captions.
        folder: Private folder for the work; the zip is left there for the caller to delete.

    Raises:
        UploadError: There is no picture yet, the upload was forgotten meanwhile, or the disk is
            full.
    """
    if not len(snapshot):
        raise UploadError("There is nothing to download yet: no photo is described.")
    try:
        with tempfile.TemporaryDirectory(
            prefix="zip-", dir=folder, ignore_cleanup_errors=True
        ) as name:
            work = Path(name)
            gallery = work / GALLERY_NAME
            gallery.mkdir()
            write_gallery(
                gallery,
                name=GALLERY_NAME,
                records=snapshot.records,
                caption_embeddings=snapshot.embeddings("captions"),
                clip_embeddings=snapshot.embeddings("clip"),
                copies=CopiesFolder(snapshot.folder, with_large=False),
                profile=replace(profile, captioner=captioner),
                source=SourceRef(kind="upload", id="your photos"),
            )
            packed = work / "gallery.zip"
            # Stored, not deflated: webp and unit vectors hardly get smaller.
            with zipfile.ZipFile(packed, "w") as archive:
                for path in sorted(gallery.rglob("*")):
                    archive.write(path, path.relative_to(work).as_posix())
            return packed.rename(folder / f"{work.name}.zip")
    except (FileNotFoundError, IncompleteGalleryError) as error:
        raise UploadError("These photos were changed meanwhile; try the download again.") from error
    except OSError as error:
        logger.error("a gallery to download could not be written: %s", error)
        raise UploadError(f"The gallery {disk_trouble(error)}; try again later.") from error


def _no_formula(value: object) -> object:
    if value is None:
        return ""
    return _FORMULA.sub(r"\g<before>'", value) if isinstance(value, str) else value
