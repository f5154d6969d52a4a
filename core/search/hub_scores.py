"""What pictures' CLIP scores owe to being hubs, worked out once for each picture that is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.mapped import read_rows
from core.models.clip.hubs import correction
from core.records import Lens

if TYPE_CHECKING:
    from core.models.profiles import Models

BLOCK = 2048


class HubScored(Protocol):
    """What is needed of a gallery."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def row(self, image_id: str) -> int:
        """Return the row of a picture; raise UnknownImageError for an unknown id."""
        ...

    def embeddings(self, lens: Lens) -> np.ndarray:
        """Return a lens's embeddings: float32 (n, dim)."""
        ...

    def column(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what ``make`` returns, which is made once."""
        ...


def hub_penalties(
    models: Models, pictures: HubScored, image_ids: Sequence[str] | None = None
) -> np.ndarray:
    """Return what is taken off CLIP scores where a fusion is ``corrected``: float32 (ids,).

    Args:
        models: What the pictures were embedded with.
        pictures: The gallery.
        image_ids: Known ids; None stands for all pictures, in row order.
    """
    known = pictures.column("hubs", lambda: np.full(len(pictures), np.nan, np.float32))
    if image_ids is None:
        rows = np.arange(len(pictures))
    else:
        rows = np.array([pictures.row(image_id) for image_id in image_ids], dtype=np.int64)
    missing = np.unique(rows[np.isnan(known[rows])])
    for start in range(0, len(missing), BLOCK):
        some = missing[start : start + BLOCK]
        seen = read_rows(pictures.embeddings("clip"), some)
        known[some] = correction(seen, models.profile.clip)
    found: np.ndarray = known[rows]
    return found
