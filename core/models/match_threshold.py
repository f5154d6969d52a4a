"""From which score on a lens's best hit is a match: chosen on data, kept by model revision."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.errors import ModelError
from core.models.locate import ASSETS, revision_of

if TYPE_CHECKING:
    from pathlib import Path

    from core.models.spec import ModelSpec
    from core.records import Lens

MATCH_FILE = ASSETS / "match.json"
"""By lens and by the revision of the model that embeds its queries: ``below`` and what was
measured. ``python -m precompute match`` writes it."""


def match_threshold(lens: Lens, model: ModelSpec) -> float | None:
    """Return the score under which a lens's best hit is no match; None where none was chosen.

    Args:
        lens: Which lens.
        model: What embeds its queries: scores of another one, or of the same one trained again,
            lie elsewhere.

    Raises:
        ModelNotFoundError: The model's files are not there.
        ModelError: The file cannot be read.
    """
    try:
        found = read_thresholds(MATCH_FILE).get(lens, {}).get(revision_of(model))
        return None if found is None else float(found["below"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{MATCH_FILE.name} has no threshold that can be read.") from error


@lru_cache(maxsize=4)
def read_thresholds(path: Path) -> dict[str, Any]:
    """Return what a file of thresholds holds, read once; nothing where there is no file.

    Raises:
        ValueError: It is not JSON.
    """
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
