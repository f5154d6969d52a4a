"""Updating a gallery in place: what it says of pictures that are still there is taken over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import GalleryError, GalleryExistsError
from core.files import sha256_of
from core.gallery.layout import MANIFEST_FILE
from core.gallery.reader import Gallery
from core.records import CORRECTED, Caption
from precompute.build.plan import BATCH_KEY
from precompute.build.shards.stages import OfPicture

if TYPE_CHECKING:
    from core.models.profiles import Profile

PLAN_KEY = "earlier gallery"
"""Of a plan: sha256 of the manifest of the gallery that is updated."""

DIGESTS_KEY = "plan"
"""Of a build report: digests of what the gallery was built from, and how."""

_FOLLOWS_CONTENT = "large_px"
"""Of the plan's decoding: it is given by the number of pictures."""


def digests_of(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of three parts of a plan: which source, its content, and all else.

    They tell nothing of the folders and names that a plan holds.
    """
    apart = ("source", "content", PLAN_KEY, BATCH_KEY)
    rest = {key: value for key, value in plan.items() if key not in apart}
    rest["decoding"] = dict(rest["decoding"])
    content = [plan["content"], rest["decoding"].pop(_FOLLOWS_CONTENT)]
    parts = {"source": plan["source"], "content": content, "settings": rest}
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
        for name, part in parts.items()
    }


def manifest_sha256(out: Path) -> str:
    """Return the digest of a gallery's manifest."""
    return sha256_of(out / MANIFEST_FILE)


def is_current(out: Path, plan: Mapping[str, Any], report_file: str) -> bool:
    """Tell whether a gallery is what a plan would build now.

    Args:
        out: The gallery.
        plan: What is to be built.
        report_file: Name of its build report.

    Raises:
        GalleryExistsError: It was built of another source or otherwise, so cannot be updated.
    """
    wanted = digests_of(plan)
    try:
        found = json.loads((out / report_file).read_bytes())[DIGESTS_KEY]
        same = {name: found[name] == digest for name, digest in wanted.items()}
    except (OSError, ValueError, KeyError, TypeError):
        same = dict.fromkeys(wanted, False)
    if not same["source"]:
        why = "The gallery {} exists."
    elif not same["settings"]:
        why = "The gallery {} was built by other models, versions or options."
    else:
        return same["content"]
    raise GalleryExistsError(
        out, f"{why.format(out)} Add --overwrite to replace it once the new one is complete."
    )


class EarlierGallery:
    """What a gallery says of its pictures.

    Args:
        out: The gallery.
        profile: The models that built it.
    """

    def __init__(self, out: Path, profile: Profile) -> None:
        """Open it.

        Raises:
            GalleryError: It cannot be opened.
        """
        try:
            self._gallery = Gallery.open(out, profile)
        except GalleryError as error:
            raise GalleryExistsError(
                out,
                f"The gallery {out} cannot be updated ({error}) Add --overwrite to replace it once "
                "the new one is complete.",
            ) from error

    def __call__(self, sha256: str, given: Caption | None) -> OfPicture | None:
        """Return what is known of a picture; None if that does not hold any more.

        Args:
            sha256: Of its encoded bytes.
            given: Its caption, if the source gives one.
        """
        gallery = self._gallery
        image_id = sha256[:16]
        if image_id not in gallery:
            return None
        record = gallery.record(image_id)
        if record.sha256 != sha256 or CORRECTED in record.caption_flags:
            return None
        if given is not None and given.text != record.caption:
            return None
        row = gallery.row(image_id)
        start, end = gallery.caption_rows.first[row : row + 2]
        return OfPicture(
            record.captions,
            np.array(gallery.caption_embeddings[start:end]),
            np.array(gallery.embeddings("clip")[row]),
            {
                "text_in_picture": record.text_in_picture,
                "text_confidence": record.text_confidence,
            },
        )
