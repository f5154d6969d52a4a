"""Rerank candidate captions with a linear probe of the captioner's image tower.

Beam search prefers common captions; the image tower knows more. A linear probe, fitted by
``python -m precompute rerank``, predicts the sentence embedding of a picture's captions from the
tower's class token, and the captioner prefers candidates near it. No CLIP model takes part.
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
from core.models.locate import files_of, revision_of

if TYPE_CHECKING:
    from core.models.spec import ModelSpec

PROBE_FILE = "rerank_probe.safetensors"
"""Beside a captioner: the map, and what sentence encoder it is for."""

_REVISION = "sentence_revision"


@dataclass(frozen=True, slots=True)
class RerankProbe:
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
        found = (tokens - self.centre) @ self.weight + self.bias
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.maximum(norms, 1e-12), dtype=np.float32)

    def require_width(self, width: int) -> None:
        """Raise ModelError if class tokens of another width are to be read."""
        if width != len(self.centre):
            raise ModelError(
                f"{PROBE_FILE} is for image towers {len(self.centre)} wide, this captioner's is "
                f"{width} wide. Run the command rerank again."
            )


@lru_cache(maxsize=32)
def read_probe(captioner: ModelSpec, sentence: ModelSpec) -> RerankProbe | None:
    """Return a captioner's probe; None if it has none, or one for another sentence encoder.

    Raises:
        ModelNotFoundError: The captioner is not on this machine, nor reachable.
        ModelError: The file is damaged, or is not a probe.
    """
    from safetensors import SafetensorError, safe_open

    path = files_of(captioner, PROBE_FILE) / PROBE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            revision = (file.metadata() or {}).get(_REVISION)
            centre, weight, bias = (
                file.get_tensor(name).astype(np.float32) for name in ("centre", "weight", "bias")
            )
    except SafetensorError as error:
        raise ModelError(f"{PROBE_FILE} of {captioner.name} is damaged: {error}.") from error
    if weight.shape != (*centre.shape, *bias.shape) or bias.shape != (sentence.dim,):
        raise ModelError(f"{PROBE_FILE} of {captioner.name} does not lead to {sentence.name}.")
    return RerankProbe(centre, weight, bias) if revision == revision_of(sentence) else None


def write_probe(folder: Path, probe: RerankProbe, sentence: ModelSpec) -> None:
    """Write a captioner's probe beside it, for one sentence encoder alone."""
    from safetensors.numpy import save

    tensors = {
        "centre": probe.centre,
        "weight": probe.weight.astype(np.float16),
        "bias": probe.bias,
    }
    write_atomically(folder / PROBE_FILE, save(tensors, {_REVISION: revision_of(sentence)}))
    read_probe.cache_clear()


def best_caption(
    embeddings: np.ndarray, nlls: Sequence[float], predicted: np.ndarray, weight: float
) -> int:
    """Return which of a picture's captions is likely, and near to what was predicted of it.

    Args:
        embeddings: float32 (captions, dim), rows of unit norm.
        nlls: Mean negative log-likelihood of the tokens of each caption.
        predicted: float32 (dim,), unit norm.
        weight: What a cosine of 1 is worth, in units of log-likelihood.
    """
    return int(np.argmax(weight * (embeddings @ predicted) - np.asarray(nlls)))


def select_captions(embeddings: np.ndarray, predicted: np.ndarray, first: int) -> list[int]:
    """Choose and order a picture's captions so that their mean comes ever nearer to the prediction.

    Each next one is that which, with all before it, brings their mean nearest. It ends where
    no caption brings it nearer.

    Args:
        embeddings: float32 (captions, dim), rows of unit norm.
        predicted: float32 (dim,), unit norm.
        first: The caption that comes first anyhow.
    """
    order, total = [first], embeddings[first].astype(np.float64)
    reached = float(total @ predicted)
    while True:
        sums = total + embeddings
        cosines = sums @ predicted / np.linalg.norm(sums, axis=1).clip(1e-12)
        cosines[order] = -1.0
        nearest = int(np.argmax(cosines))
        if cosines[nearest] <= reached:
            return order
        order.append(nearest)
        total, reached = sums[nearest], float(cosines[nearest])
