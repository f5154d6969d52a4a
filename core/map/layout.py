"""Lays pictures out in two dimensions, once a lens, so that both maps can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from core.records import LENSES, Lens

MOST_PICTURES = 100_000
"""Larger galleries get no map: a browser has to hold and draw every point."""
MOST_EMBEDDED = 10_000
"""Pictures that t-SNE places; of more, the others stand among the nearest of these."""
FEWEST_EMBEDDED = 12
"""With fewer pictures neighbours mean little, and the first two components are the map."""

_COMPONENTS = 50
_PERPLEXITY = 30
_STEPS = 500
"""More take longer and change nothing: trustworthiness is 0.948 after 500 and 0.946 after 1,000."""
_ANCHORS = 5
_MEASURED = 2_000
_ROWS_AT_ONCE = 2_048


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Both maps of a gallery.

    Attributes:
        coordinates: For each lens float32 (n, 2), row i = record i, around 0 with a root mean
            square distance of 1; the CLIP lens's map is turned onto the caption lens's.
        method: How they were made, in one sentence.
    """

    coordinates: Mapping[Lens, np.ndarray]
    method: str


def lay_out(embeddings: Mapping[Lens, np.ndarray]) -> MapLayout:
    """Lay a gallery's pictures out by each lens.

    The same embeddings give the same bytes on one machine: everything has a fixed seed and runs in
    one thread a lens.

    Args:
        embeddings: For each lens float32 (n, dim), unit norm, row i = record i.

    Raises:
        ValueError: More than :data:`MOST_PICTURES`, or lenses with different numbers of pictures.
    """
    count = len(embeddings["captions"])
    if any(len(rows) != count for rows in embeddings.values()):
        raise ValueError("both lenses need a row for every picture")
    if count > MOST_PICTURES:
        raise ValueError(f"a map holds at most {MOST_PICTURES:,} pictures; these are {count:,}")
    few = count < FEWEST_EMBEDDED
    if not few:
        import sklearn.manifold  # noqa: F401 - a limit of threads binds what is loaded
    from threadpoolctl import threadpool_limits

    place = _first_two if few else _embedded
    with threadpool_limits(1), ThreadPoolExecutor(len(LENSES)) as threads:
        placed = threads.map(place, (embeddings[lens] for lens in LENSES))
        maps = {lens: _scaled(rows) for lens, rows in zip(LENSES, placed, strict=True)}
        maps["clip"] = aligned(maps["clip"], maps["captions"])
    coordinates = {lens: maps[lens].astype(np.float32) for lens in LENSES}
    method = "two principal components"
    if not few:
        method = (
            f"{_COMPONENTS} principal components, then t-SNE (scikit-learn "
            f"{version('scikit-learn')}, perplexity {_perplexity(count)})"
        )
    return MapLayout(coordinates, f"{method}; CLIP turned onto captions (Procrustes)")


def components(rows: np.ndarray, at_most: int) -> np.ndarray:
    """Return the first principal components of rows: float64 (n, at_most), zeros if there are few.

    Args:
        rows: float (n, dim).
        at_most: Components wanted.
    """
    found = np.zeros((len(rows), at_most))
    for part, projected in _Components(rows, at_most):
        found[part] = projected
    return found


class _Components:
    """The first principal components of rows, some rows at a time: all may not fit into memory."""

    def __init__(self, rows: np.ndarray, at_most: int) -> None:
        self._rows, self._count = rows, at_most
        self._mean = rows.mean(axis=0, dtype=np.float64)
        spread = np.zeros((rows.shape[1], rows.shape[1]))
        for part in self._parts():
            centred = rows[part] - self._mean
            spread += centred.T @ centred
        _, directions = np.linalg.eigh(spread)
        directions = directions[:, ::-1][:, :at_most]
        # The sign of a component is free: its largest weight is made positive.
        largest = np.abs(directions).argmax(axis=0)
        self._directions = directions * np.sign(directions[largest, np.arange(len(largest))])

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield which rows, and their components: float64 (rows, at most)."""
        for part in self._parts():
            found = np.zeros((part.stop - part.start, self._count))
            found[:, : self._directions.shape[1]] = (
                self._rows[part] - self._mean
            ) @ self._directions
            yield part, found

    def of(self, chosen: np.ndarray) -> np.ndarray:
        """Return the components of some rows, rising: float64 (chosen, at most)."""
        found = np.zeros((len(chosen), self._count))
        for part, projected in self:
            first, last = np.searchsorted(chosen, (part.start, part.stop))
            found[first:last] = projected[chosen[first:last] - part.start]
        return found

    def _parts(self) -> Iterator[slice]:
        for at in range(0, len(self._rows), _ROWS_AT_ONCE):
            yield slice(at, min(at + _ROWS_AT_ONCE, len(self._rows)))


def aligned(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Return a map turned, or mirrored, so that it lies on another one as well as it can.

    Args:
        moving: float (n, 2), around 0.
        fixed: Likewise; row i is the same picture.
    """
    left, _, right = np.linalg.svd(moving.T @ fixed)
    turned: np.ndarray = moving @ (left @ right)
    return turned


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return how far two aligned maps put pictures at the same places: 1 for the same map.

    Args:
        first: float (n, 2), around 0.
        second: Likewise.
    """
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / norm if norm else 0.0


def trustworthiness(rows: np.ndarray, coordinates: np.ndarray) -> float:
    """Return how far neighbours on a map are neighbours in the embedding too: at most 1.

    Args:
        rows: float32 (n, dim), the embeddings.
        coordinates: float32 (n, 2).
    """
    from sklearn.manifold import trustworthiness as measured

    chosen = evenly(len(rows), _MEASURED)
    neighbours = min(12, (len(chosen) - 1) // 2)
    if neighbours < 1:
        return 1.0
    return float(
        measured(rows[chosen], coordinates[chosen], n_neighbors=neighbours, metric="cosine")
    )


def evenly(count: int, at_most: int) -> np.ndarray:
    """Return int64 rows, rising: all of ``count``, or ``at_most`` spread over them."""
    if count <= at_most:
        return np.arange(count)
    return np.linspace(0, count - 1, at_most).astype(np.int64)


def _first_two(embeddings: np.ndarray) -> np.ndarray:
    return components(embeddings, 2)


def _embedded(embeddings: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Once more: OpenMP has a limit for each thread that calls it.
    with threadpool_limits(1):
        rows = _Components(embeddings, _COMPONENTS)
        chosen = evenly(len(embeddings), MOST_EMBEDDED)
        anchors = rows.of(chosen)
        # Both lenses begin from their own first components: a start that they share, or CLIP's from
        # the captions' map, agreed less in the end (0.59 and 0.51 against 0.62 on 1,000 photos).
        begin = anchors[:, :2] - anchors[:, :2].mean(axis=0)
        begin *= 1e-4 / max(float(begin[:, 0].std()), 1e-12)
        placed: np.ndarray = TSNE(
            n_components=2,
            perplexity=_perplexity(len(embeddings)),
            init=begin.astype(np.float32),
            learning_rate="auto",
            max_iter=_STEPS,
            random_state=0,
            n_jobs=1,
        ).fit_transform(anchors.astype(np.float32))
        return placed if len(chosen) == len(embeddings) else _among(rows, anchors, placed)


def _perplexity(count: int) -> int:
    return min(_PERPLEXITY, max(2, count // 4))


def _among(rows: _Components, anchors: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Return every row's place: the mean of its nearest anchors, the nearer the more."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=_ANCHORS, algorithm="brute").fit(anchors)
    found = []
    for _, projected in rows:
        distances, nearest = index.kneighbors(projected)
        weights = 1 / (distances**2 + 1e-9)  # an anchor itself stays where it is
        weights /= weights.sum(axis=1, keepdims=True)
        found.append((placed[nearest] * weights[..., None]).sum(axis=1))
    return np.concatenate(found)


def _scaled(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return centred / spread if spread else centred
