"""The embedding of a query: of its words, or the weighted sum of its parts in one lens's space."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.errors import QueryError
from core.records import Lens
from core.search.query_language.parse import ParsedQuery, Part, parse_query

if TYPE_CHECKING:
    from core.models.profiles import EncodedQuery, Models

_LEAST_NORM = 1e-3


class Embedded(Protocol):
    """What a query with pictures in it needs of a gallery."""

    def embedding(self, lens: Lens, image_id: str) -> np.ndarray:
        """Return one picture's embedding; raise UnknownImageError for an unknown id."""
        ...


class ComingQuery:
    """A query of several parts whose words are being embedded.

    Args:
        parts: Of the query.
        coming: For each the embedding of its words, or a picture's.
    """

    def __init__(
        self, parts: Sequence[Part], coming: Sequence[Future[EncodedQuery] | np.ndarray]
    ) -> None:
        """Wait for nothing yet."""
        self._parts = parts
        self._coming = coming

    def result(self) -> EncodedQuery:
        """Return the query's embedding once it is there.

        Raises:
            QueryError: The parts cancel each other out.
            ModelError: The lens's encoder cannot be loaded.
        """
        from core.models.profiles import EncodedQuery

        rows, took, cached = [], 0.0, True
        for each in self._coming:
            if isinstance(each, np.ndarray):
                rows.append(each)
                continue
            found = each.result()
            rows.append(found.embedding)
            took, cached = took + found.encode_ms, cached and found.cached
        return EncodedQuery(weighted_sum(self._parts, rows), took, cached)


def unit_weights(parts: Sequence[Part], embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weights with which the parts' embeddings add up to a unit vector: float64.

    Args:
        parts: Of a query.
        embeddings: Of each: float32 (dim,), unit norm.

    Raises:
        QueryError: The parts cancel each other out.
    """
    weights = np.array([part.weight for part in parts])
    norm = float(np.linalg.norm(weights @ np.asarray(embeddings, dtype=np.float64)))
    if norm < _LEAST_NORM * np.abs(weights).sum():
        raise QueryError("The parts of this query cancel each other out.")
    return weights / norm


def weighted_sum(parts: Sequence[Part], embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum of unit embeddings by their parts' weights, normalised: float32, read-only.

    Raises:
        QueryError: The parts cancel each other out.
    """
    total = unit_weights(parts, embeddings) @ np.asarray(embeddings, dtype=np.float64)
    embedding: np.ndarray = total.astype(np.float32)
    embedding.setflags(write=False)
    return embedding


def begin_query(
    models: Models, pictures: Embedded, lens: Lens, query: ParsedQuery
) -> Future[EncodedQuery] | ComingQuery:
    """Begin to embed a query in a lens's own space; plain words cost nothing more.

    Args:
        models: What embeds words.
        pictures: The gallery whose pictures the query may name.
        lens: Whose space.
        query: What is asked.

    Raises:
        QueryError: Filters are all that the query is.
        UnknownImageError: It names a picture that the gallery does not have.
    """
    if not query.parts:
        raise QueryError("Say also what you are looking for: these words only filter.")
    if query.is_plain:
        return models.begin_query(lens, query.parts[0].text)
    coming: list[Future[EncodedQuery] | np.ndarray] = []
    for part in query.parts:
        if part.picture:
            coming.append(pictures.embedding(lens, part.picture))
        else:
            coming.append(models.begin_query(lens, part.text))
    return ComingQuery(query.parts, coming)


def embed_query(models: Models, pictures: Embedded, lens: Lens, query: str) -> np.ndarray:
    """Return the embedding of a normalised query: float32 (dim,), unit norm, read-only.

    Raises:
        QueryError: See :func:`core.search.query_language.parse.parse_query`.
        UnknownImageError: See :func:`begin_query`.
        ModelError: The lens's encoder cannot be loaded.
    """
    return begin_query(models, pictures, lens, parse_query(query)).result().embedding


def embed_parts(
    models: Models, pictures: Embedded, lens: Lens, query: ParsedQuery
) -> list[np.ndarray]:
    """Return the embedding of each part of a query; raises as :func:`embed_query`."""
    return [
        pictures.embedding(lens, part.picture)
        if part.picture
        else models.embed_query(lens, part.text)
        for part in query.parts
    ]
