"""The views of a picture that a model sees together (test-time augmentation).

A CLIP model's ``open_clip_config.json`` and a captioner's ``twolens.json`` may list them as
``image_views``: boxes of left, top, right and bottom as shares of the picture, 0 to 1; with left
and right exchanged a view is mirrored. Without a list the whole picture is the only view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

VIEWS_NAME = "image_views"
WHOLE = (0.0, 0.0, 1.0, 1.0)
_MOST = 16


@dataclass(frozen=True, slots=True)
class View:
    """A part of a picture, perhaps mirrored; edges are shares of its width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    mirrored: bool = False

    def of(self, image: Image) -> Image:
        """Return what the view sees of a picture; the whole picture is not copied."""
        from PIL import ImageOps

        width, height = image.size
        left, top = int(self.left * width), int(self.top * height)
        right = max(left + 1, round(self.right * width))
        bottom = max(top + 1, round(self.bottom * height))
        if (left, top, right, bottom) != (0, 0, width, height):
            image = image.crop((left, top, right, bottom))
        return ImageOps.mirror(image) if self.mirrored else image


def views_of(config: Mapping[str, Any], name: str) -> tuple[View, ...]:
    """Return the views that a model's configuration lists.

    Args:
        config: What has the list, or has none.
        name: The model, for the error.

    Raises:
        ModelError: They are no boxes within the picture.
    """
    listed = config.get(VIEWS_NAME)
    if listed is None:
        return (View(),)
    try:
        views = tuple(_view(*map(float, box)) for box in listed)
    except (TypeError, ValueError):
        views = ()
    if not 0 < len(views) <= _MOST:
        raise ModelError(
            f"The configuration of {name} has {VIEWS_NAME} that are no list of 1 to {_MOST} boxes "
            "[left, top, right, bottom] from 0 to 1."
        )
    return views


def _view(left: float, top: float, right: float, bottom: float) -> View:
    mirrored = left > right
    if mirrored:
        left, right = right, left
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError
    return View(left, top, right, bottom, mirrored)
