"""Vectors in a Milvus collection: the same answers as FAISS, from a server or a local file.

The one file that imports ``pymilvus`` (``requirements-milvus.txt``). Milvus finds candidates and
returns their vectors with them; score and order are settled here, as :mod:`core.search.index`
does it, so that equal vectors get equal answers from either.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core.errors import EmbeddingError, IndexUnavailableError, MissingDependencyError, QueryError
from core.records import Hit, IndexKind
from core.search.engines.approximate import cluster_count
from core.search.engines.training import FLAT_UP_TO

logger = logging.getLogger(__name__)

INSTALL = "pip install -r requirements-milvus.txt"

_SCORE_UNCERTAINTY = 1e-5
_SPARE_CANDIDATES = 16
_MOST_CANDIDATES = 16_384
"""Milvus answers with no more."""
MOST_NAMED_ROWS = 10_000
_BATCH_BYTES = 16 << 20
_MISSING, _RELEASED = 100, 101
_LICENCE_CHARS = 500

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MilvusPlace:
    """Where collections are.

    Attributes:
        uri: ``http://HOST:19530`` of a server or cluster, or a path that ends in ``.db`` for
            Milvus Lite, which runs in this process.
        token: ``USER:PASSWORD`` or an API key, or "".
        timeout_s: After which a server counts as away.
    """

    uri: str
    token: str = ""
    timeout_s: float = 5.0

    @property
    def is_local(self) -> bool:
        """Whether it is a file, read by Milvus Lite."""
        return not self.uri.startswith(("http://", "https://", "tcp://", "unix:"))


class MilvusIndex:
    """One collection, searched like a :class:`core.search.index.Index`. Safe for many threads.

    It connects when it is first searched, and again after the server was away. What it adds and
    deletes itself its searches see at once, and what others do soon after: to wait for these took
    a server 600 ms a search in place of 10.

    Args:
        place: Where.
        collection: Name of the collection.
        dim: Length of a vector.
        effort: nprobe unless a search asks for another; None takes the root of the clusters.
    """

    def __init__(
        self, place: MilvusPlace, collection: str, dim: int, effort: int | None = None
    ) -> None:
        """Remember where the vectors are; connect to nothing."""
        self._place, self._collection, self._dim = place, collection, dim
        self._effort = effort
        self._connected: Any = None
        self._lock = threading.Lock()

    @property
    def kind(self) -> IndexKind:
        """``milvus``."""
        return "milvus"

    def create(self, size: int) -> None:
        """Make the collection anew and empty.

        Args:
            size: Vectors that it will hold. Up to 25,000, and in Milvus Lite, they are compared
                one by one, else by the 8-bit codes of the nearest clusters.

        Raises:
            IndexUnavailableError: The server does not answer.
        """
        from pymilvus import DataType

        exact = size <= FLAT_UP_TO or self._place.is_local

        def make(client: Any) -> None:  # noqa: ANN401
            client.drop_collection(self._collection)
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("row", DataType.INT64, is_primary=True)
            schema.add_field("id", DataType.VARCHAR, max_length=64)
            schema.add_field("licence", DataType.VARCHAR, max_length=_LICENCE_CHARS)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dim)
            index = client.prepare_index_params()
            index.add_index(
                "vector",
                index_type="FLAT" if exact else "IVF_SQ8",
                metric_type="IP",
                params={} if exact else {"nlist": cluster_count(size)},
            )
            client.create_collection(
                self._collection, schema=schema, index_params=index, consistency_level="Session"
            )
            client.load_collection(self._collection)

        self._asked(make)

    def add(
        self,
        rows: Sequence[int],
        vectors: np.ndarray,
        ids: Sequence[str],
        licences: Sequence[str | None],
    ) -> None:
        """Add vectors, or put them in the place of those of the same rows.

        Args:
            rows: The order in which equal scores come: an int for each.
            vectors: float32 (n, dim), rows of unit norm.
            ids: Image ids.
            licences: Of the pictures, if known.

        Raises:
            EmbeddingError: Vectors of another length.
            IndexUnavailableError: The server does not answer.
        """
        if vectors.shape != (len(rows), self._dim):
            raise EmbeddingError(
                f"({len(rows)}, {self._dim}) embeddings are needed; got {vectors.shape}."
            )
        batch = max(1, _BATCH_BYTES // (4 * self._dim))
        for start in range(0, len(rows), batch):
            entries = [
                {
                    "row": int(rows[at]),
                    "id": ids[at],
                    "licence": (licences[at] or "")[:_LICENCE_CHARS],
                    "vector": vectors[at],
                }
                for at in range(start, min(start + batch, len(rows)))
            ]
            self._asked(partial(_upsert, self._collection, entries))

    def finish(self) -> None:
        """Have what was added indexed; return when searches by other clients see all of it.

        Raises:
            IndexUnavailableError: The server does not answer.
        """
        self._asked(lambda client: client.flush(self._collection))
        self._counted(None)

    def delete(self, rows: Sequence[int]) -> None:
        """Remove vectors by their rows; raises as :meth:`add` does."""
        self._asked(lambda client: client.delete(self._collection, ids=[int(row) for row in rows]))

    @property
    def size(self) -> int:
        """Number of vectors, asked of the server after all that anybody wrote before."""
        return self._counted(self._timeout)

    def _counted(self, timeout_s: float | None) -> int:
        counted = self._asked(
            lambda client: client.query(
                self._collection,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=timeout_s,
            )
        )
        return int(counted[0]["count(*)"])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def nlist(self) -> int | None:
        """None: how the server sorts its vectors is not asked."""
        return None

    @property
    def default_nprobe(self) -> int | None:
        """What a search takes unless it asks for another; None leaves it to the server."""
        return self._effort

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        nprobe: int | None = None,
        among: np.ndarray | None = None,
        licence: str | None = None,
    ) -> list[list[Hit]]:
        """Rank the images for each query.

        Args:
            queries: float32 (q, dim), rows of unit norm.
            k: Hits a query, 1 or more; capped at the number of images.
            nprobe: Clusters to look into; ignored where there are none.
            among: Which rows may be found: bool (rows,); None allows all.
            licence: Only pictures of this licence; None allows all.

        Raises:
            EmbeddingError: Queries of another length.
            QueryError: k or nprobe below 1.
            IndexUnavailableError: The server does not answer.
        """
        if k < 1:
            raise QueryError(f"k must be 1 or more; got {k}.")
        if nprobe is not None and nprobe < 1:
            raise QueryError(f"nprobe must be 1 or more; got {nprobe}.")
        if queries.ndim != 2 or queries.shape[1] != self._dim:
            raise EmbeddingError(
                f"Embeddings of length {self._dim} are needed; got {queries.shape}."
            )
        rule = "" if licence is None else f"licence == {json.dumps(licence, ensure_ascii=False)}"
        allowed = None
        if among is not None:
            rows = np.flatnonzero(among)
            if not len(rows):
                return [[] for _ in queries]
            if len(rows) <= MOST_NAMED_ROWS:
                named = f"row in {rows.tolist()}"
                rule = f"{rule} and {named}" if rule else named
            else:
                allowed = among
        effort = nprobe or self._effort
        return [self._ranked(query, k, effort, rule, allowed) for query in queries]

    def _ranked(
        self, query: np.ndarray, k: int, effort: int | None, rule: str, allowed: np.ndarray | None
    ) -> list[Hit]:
        """Fetch spare candidates, and more where the cut may split a tie or a filter took some."""
        fetched = min(k + _SPARE_CANDIDATES, _MOST_CANDIDATES)
        while True:
            found = self._candidates(query, fetched, effort, rule)
            complete = len(found) < fetched
            if complete and rule and effort is not None and len(found) < k:
                found = self._candidates(query, fetched, 65_536, rule)
            scores = [float(each["distance"]) for each in found]
            kept = [each for each in found if allowed is None or allowed[each["entity"]["row"]]]
            settled = complete or (
                len(kept) >= k and float(kept[k - 1]["distance"]) - scores[-1] > _SCORE_UNCERTAINTY
            )
            if settled or fetched == _MOST_CANDIDATES:
                return _settled(query, kept, k)
            fetched = min(4 * fetched, _MOST_CANDIDATES)

    def _candidates(
        self, query: np.ndarray, count: int, effort: int | None, rule: str
    ) -> list[Any]:
        parameters = {} if effort is None else {"nprobe": effort}
        (found,) = self._asked(
            lambda client: client.search(
                self._collection,
                data=[query],
                anns_field="vector",
                limit=count,
                filter=rule,
                search_params={"metric_type": "IP", "params": parameters},
                output_fields=["row", "id", "vector"],
                timeout=self._timeout,
            )
        )
        return list(found)

    @property
    def _timeout(self) -> float:
        return self._place.timeout_s

    def _asked(self, ask: Callable[[Any], T]) -> T:
        """Ask the server; once more where it came back and has to load the collection first."""
        from pymilvus.exceptions import MilvusException

        try:
            client = self._client()
            try:
                return ask(client)
            except MilvusException as error:
                if error.code != _RELEASED:
                    raise
                client.load_collection(self._collection, timeout=self._timeout)
                return ask(client)
        except (MilvusException, OSError) as error:
            logger.warning("Milvus at %s: %s", self._place.uri, error)
            is_missing = getattr(error, "code", None) == _MISSING
            raise IndexUnavailableError(self._place.uri, is_missing=is_missing) from error

    def _client(self) -> Any:  # noqa: ANN401 - a pymilvus.MilvusClient
        with self._lock:
            if self._connected is None:
                self._connected = _connect(self._place)
            return self._connected

    def close(self) -> None:
        """Close the connection; a later search opens another."""
        with self._lock:
            if self._connected is not None:
                self._connected.close()
                self._connected = None


def _upsert(collection: str, entries: list[dict[str, Any]], client: Any) -> None:  # noqa: ANN401
    client.upsert(collection, entries)


def _connect(place: MilvusPlace) -> Any:  # noqa: ANN401
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise MissingDependencyError("pymilvus", "the Milvus index", INSTALL) from error
    # Its own log repeats every error with a traceback; what failed is logged once, here.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    if place.is_local:
        Path(place.uri).parent.mkdir(parents=True, exist_ok=True)
    return MilvusClient(place.uri, token=place.token, timeout=place.timeout_s)


def _settled(query: np.ndarray, found: Sequence[Any], k: int) -> list[Hit]:
    """Score candidates by their vectors in double precision, and put equal ones in row order."""
    if not found:
        return []
    vectors = np.array([each["entity"]["vector"] for each in found], dtype=np.float64)
    scores = (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    rows = np.array([each["entity"]["row"] for each in found])
    return [
        Hit(
            id=found[at]["entity"]["id"],
            score=min(1.0, max(-1.0, float(scores[at]))),
            rank=rank,
        )
        for rank, at in enumerate(np.lexsort((rows, -scores))[:k], start=1)
    ]
