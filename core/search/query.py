"""What may be asked of a search, checked in one place."""

from __future__ import annotations

from core.errors import QueryError
from core.records import LENSES


def check_lens(lens: str) -> None:
    """Raise QueryError unless ``lens`` is one of :data:`core.records.LENSES`."""
    if lens not in LENSES:
        raise QueryError(f"Lens must be one of {', '.join(LENSES)}; got {str(lens)[:40]!r}.")
