"""What a captioner saw, read as a sentence's embedding: which of its captions says it best.

What a captioner's image tower says of a picture knows more than the caption that its language
model then finds the likeliest, for what is likely is what is usual. A linear map, fitted by
``python -m precompute sight``, takes the tower's class token to where the picture's captions lie
in the sentence encoder's space. Among its own captions the captioner then prefers those that lie
there. Nothing but the captioner and the sentence encoder has a say: CLIP has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import ModelError
from core.files import write_atomically
from core.models.weights import files_of, revision_of

if TYPE_CHECKING:
    from core.models.spec import ModelSpec

SIGHT_FILE = "sight.safetensors"
"""Beside a captioner: the map, and what sentence encoder it is for."""

_REVISION = "sentence_revision"


@dataclass(frozen=True, slots=True)
class Sight:
    """From an image tower's class token to the sentence encoder's space.

    Attributes:
        centre: float32 (width,), taken off the token first: pictures differ little from it.
        weight: float32 (width, dim).
        bias: float32 (dim,).
    """

    centre: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Return where pictures' captions should lie: float32 (n, dim), rows of unit norm.

        Args:
            tokens: float32 (n, width): each picture's class token.
        """
        seen = (tokens - self.centre) @ self.weight + self.bias
        norms = np.linalg.norm(seen, axis=1, keepdims=True)
        return np.asarray(seen / np.maximum(norms, 1e-12), dtype=np.float32)

    def require_width(self, width: int) -> None:
        """Raise ModelError if class tokens of another width are to be read."""
        if width != len(self.centre):
            raise ModelError(
                f"{SIGHT_FILE} is for image towers {len(self.centre)} wide, this captioner's is "
                f"{width} wide. Run the command sight again."
            )


@lru_cache(maxsize=32)
def read_sight(captioner: ModelSpec, sentence: ModelSpec) -> Sight | None:
    """Return a captioner's sight; None if it has none, or one for another sentence encoder.

    Raises:
        ModelNotFoundError: The captioner is not on this machine, nor reachable.
        ModelError: The file is damaged, or is not a sight.
    """
    from safetensors import SafetensorError, safe_open

    path = files_of(captioner, SIGHT_FILE) / SIGHT_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            revision = (file.metadata() or {}).get(_REVISION)
            centre, weight, bias = (
                file.get_tensor(name).astype(np.float32) for name in ("centre", "weight", "bias")
            )
    except SafetensorError as error:
        raise ModelError(f"{SIGHT_FILE} of {captioner.name} is damaged: {error}.") from error
    if weight.shape != (*centre.shape, *bias.shape) or bias.shape != (sentence.dim,):
        raise ModelError(f"{SIGHT_FILE} of {captioner.name} does not lead to {sentence.name}.")
    return Sight(centre, weight, bias) if revision == revision_of(sentence) else None


def write_sight(folder: Path, sight: Sight, sentence: ModelSpec) -> None:
    """Write a captioner's sight beside it, for one sentence encoder alone."""
    from safetensors.numpy import save

    tensors = {
        "centre": sight.centre,
        "weight": sight.weight.astype(np.float16),
        "bias": sight.bias,
    }
    write_atomically(folder / SIGHT_FILE, save(tensors, {_REVISION: revision_of(sentence)}))
    read_sight.cache_clear()


def best_said(
    embeddings: np.ndarray, surprise: Sequence[float], seen: np.ndarray, weight: float
) -> int:
    """Return which of a picture's captions is likely, and says what was seen.

    Args:
        embeddings: float32 (captions, dim), rows of unit norm.
        surprise: Of each caption: minus the mean logarithm of its tokens' probabilities.
        seen: float32 (dim,), unit norm.
        weight: What a cosine of 1 is worth, in units of surprise.
    """
    return int(np.argmax(weight * (embeddings @ seen) - np.asarray(surprise)))


def said_together(embeddings: np.ndarray, seen: np.ndarray, first: int) -> list[int]:
    """Choose and order a picture's captions so that their mean comes ever nearer to what was seen.

    Each next one is that which, with all before it, brings their mean nearest. It ends where
    no caption brings it nearer.

    Args:
        embeddings: float32 (captions, dim), rows of unit norm.
        seen: float32 (dim,), unit norm.
        first: The caption that comes first anyhow.
    """
    order, total = [first], embeddings[first].astype(np.float64)
    reached = float(total @ seen)
    while True:
        sums = total + embeddings
        cosines = sums @ seen / np.linalg.norm(sums, axis=1).clip(1e-12)
        cosines[order] = -1.0
        nearest = int(np.argmax(cosines))
        if cosines[nearest] <= reached:
            return order
        order.append(nearest)
        total, reached = sums[nearest], float(cosines[nearest])
