"""What a search asks of an index, whatever holds its vectors."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from core.records import Hit, IndexKind


class VectorIndex(Protocol):
    """Image ids ranked by inner product with a query. Safe to search from many threads.

    Equal vectors get equal answers from every one: scores are those of the float32 embeddings,
    summed in double precision, and images of equal score come in row order.
    """

    @property
    def kind(self) -> IndexKind:
        """Of the index."""
        ...

    @property
    def nlist(self) -> int | None:
        """Number of clusters; None where there are none, or they are not known."""
        ...

    @property
    def default_nprobe(self) -> int | None:
        """Clusters searched unless asked otherwise; None where there are none."""
        ...

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        nprobe: int | None = None,
        among: np.ndarray | None = None,
    ) -> list[list[Hit]]:
        """Rank the images for each query; see :meth:`core.search.index.Index.search`.

        Raises:
            EmbeddingError: Queries of another shape.
            QueryError: k or nprobe below 1.
            IndexUnavailableError: What holds the vectors does not answer.
        """
        ...
