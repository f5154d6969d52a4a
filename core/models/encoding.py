"""What text and image encoders share: one load, batches in order, and checks of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from core.errors import ModelError
from core.models.spec import ModelSpec, Precision

if TYPE_CHECKING:
    import numpy as np
    import torch

_TEXT_BATCH = 128

T = TypeVar("T")


class Once(Generic[T]):
    """A value made by the first thread that asks, while the others wait.

    A make that fails leaves nothing behind: the next caller tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        """Remember how; make nothing."""
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None
        self._used_at = time.monotonic()

    @property
    def made(self) -> bool:
        """Whether somebody asked for it already."""
        return self._value is not None

    def get(self) -> T:
        """Return the value, made now if it was not."""
        self._used_at = time.monotonic()
        value = self._value
        if value is None:
            with self._lock:
                value = self._value
                if value is None:
                    value = self._value = self._make()
        return value

    def drop_if_idle(self, seconds: float) -> bool:
        """Forget a value that nobody asked for so long; whoever holds it may go on using it.

        Returns:
            Whether there was one to forget; the next caller gets another.
        """
        with self._lock:
            if self._value is None or time.monotonic() - self._used_at < seconds:
                return False
            self._value = None
            return True


def embed_texts(
    embed: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], dim: int
) -> np.ndarray:
    """Return :func:`embed_in_batches` of texts, which are not padded to much longer ones.

    Args:
        embed: Maps some texts to a tensor (texts, dim), of any norm.
        texts: In the order of the rows.
        dim: Length of an embedding.
    """
    import numpy as np

    order = np.argsort([len(text) for text in texts], kind="stable")
    embeddings = embed_in_batches(embed, [texts[row] for row in order], _TEXT_BATCH, dim)
    return embeddings[np.argsort(order)]


def embed_in_batches(
    embed: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T], size: int, dim: int
) -> np.ndarray:
    """Return float32 (n, dim), rows of unit norm, in the order of ``items``.

    Args:
        embed: Maps some of the items to a tensor (items, dim), of any norm.
        items: Texts or images.
        size: Items that are embedded at once.
        dim: Length of an embedding.
    """
    import numpy as np
    import torch

    embeddings = np.empty((len(items), dim), np.float32)
    with torch.inference_mode():
        for start in range(0, len(items), size):
            batch = embed(items[start : start + size]).float()
            embeddings[start : start + size] = torch.nn.functional.normalize(batch).cpu()
    return embeddings


def require_dim(spec: ModelSpec, found: int) -> None:
    """Raise ModelError if a model's embeddings have another length than its description says."""
    if spec.dim is not None and found != spec.dim:
        raise ModelError(
            f"The model {spec.name} gives embeddings of length {found}, but {spec.dim} is expected."
        )


def require_precision(spec: ModelSpec, *known: Precision) -> None:
    """Raise ModelError unless a model is asked to run in one of the precisions that it can."""
    if spec.precision not in known:
        raise ModelError(
            f"The encoder {spec.name} runs in {' or '.join(known)}, not in {spec.precision}."
        )
