"""A search: what may be asked, what is answered, and how long each part took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.activity import searched
from core.errors import QueryError, TwoLensError
from core.records import LENSES, FusedHit, Fusion, Hit, IndexKind, Lens
from core.search.agreement import Agreement, agreement
from core.search.engines.protocol import VectorIndex
from core.search.fusion import Spread, fuse
from core.search.hub_scores import HubScored, hub_penalties
from core.search.query import (
    MAX_QUERY_CHARS,
    check_index_kind,
    check_lens,
    normalise_query,
    picture_count,
    probe_count,
)
from core.search.query_language.compose import begin_query, embed_query
from core.search.query_language.filters import Columns, allowed_rows
from core.search.query_language.parse import ParsedQuery, parse_query
from core.search.results import FUSION_DEPTH, Comparison, SearchResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.models.profiles import EncodedQuery, Models
    from core.search.bm25.picture_text import TextHit

logger = logging.getLogger(__name__)


class Searchable(Columns, HubScored, Protocol):
    """What a search needs of a gallery, or of an upload."""

    @property
    def index_kinds(self) -> tuple[IndexKind, ...]:
        """The kinds of index that can be searched, the best first."""
        ...

    def index(self, lens: Lens, kind: IndexKind) -> VectorIndex:
        """Return an index over all pictures; raise QueryError for an unknown lens or kind."""
        ...

    def embedding(self, lens: Lens, image_id: str) -> np.ndarray:
        """Return one picture's embedding; raise UnknownImageError for an unknown id."""
        ...

    def scores(self, lens: Lens, image_ids: Sequence[str], query: np.ndarray) -> np.ndarray:
        """Return the scores of some pictures for a query."""
        ...

    def spread(self, lens: Lens, query: np.ndarray) -> Spread:
        """Return how the scores of all pictures lie for a query."""
        ...

    def nearest_captions(self, image_ids: Sequence[str], query: np.ndarray) -> Sequence[int]:
        """Return which of its captions is nearest to a query for each picture, from 0."""
        ...


class SearchService:
    """Searches one gallery with the models of one profile. Safe to use from many threads.

    Every method raises QueryError, with a sentence for the visitor, for a request that cannot be
    answered, as :mod:`core.search.query` tells: an empty or overlong query, k out of range, an
    unknown lens or index, nprobe below 1. k is capped at the size of the gallery, nprobe at the
    number of clusters.

    Attributes:
        gallery: What is searched.
        models: What embeds the queries.
        max_query_chars: Longest query that is answered.
    """

    def __init__(
        self, gallery: Searchable, models: Models, max_query_chars: int = MAX_QUERY_CHARS
    ) -> None:
        """Remember what to search and with what; load nothing."""
        self.gallery = gallery
        self.models = models
        self.max_query_chars = max_query_chars

    def by_text(
        self,
        query: str,
        k: int = 5,
        lens: Lens = "captions",
        index: IndexKind | None = None,
        nprobe: int | None = None,
        start: int = 0,
    ) -> SearchResult:
        """Rank the pictures for a text through one lens.

        Args:
            query: See :func:`core.search.query.normalise_query` and
                :func:`core.search.query_language.parse.parse_query`.
            k: Hits wanted.
            lens: ``captions`` or ``clip``.
            index: One that the gallery has; None takes its best.
            nprobe: Clusters an IVF search looks into; None leaves it to the index.
            start: Hits to pass over, for a later page of the same ranking.

        Raises:
            QueryError: The request cannot be answered.
            ModelError: The lens's encoder cannot be loaded.
        """
        k, kind, nprobe = self._check(k, lens, index, nprobe)
        asked = self.parse(query)
        encoded = begin_query(self.models, self.gallery, lens, asked).result()
        among = allowed_rows(self.gallery, asked.filters)
        found = self._ranked(asked, encoded, start + k, lens, kind, nprobe, among)
        return replace(found, hits=found.hits[start:]) if start else found

    def by_image(self, image: Image, k: int = 5) -> SearchResult:
        """Rank the pictures by likeness to an image, which only the CLIP lens can embed.

        Args:
            image: RGB, oriented.
            k: Hits wanted.

        Raises:
            QueryError: The request cannot be answered.
            ModelError: The image tower cannot be loaded.
        """
        k, kind, _ = self._check(k, "clip", None, None)
        started = time.perf_counter()
        embedding = self.models.clip.encode_image([image])[0]
        encode_ms = _ms_since(started)
        hits, search_ms = self._search(embedding, k, "clip", kind, None)
        searched("clip")
        return SearchResult("clip", kind, hits, encode_ms, search_ms, cached=False)

    def similar(
        self,
        image_id: str,
        k: int = 5,
        lens: Lens = "clip",
        index: IndexKind | None = None,
        nprobe: int | None = None,
    ) -> SearchResult:
        """Rank the other pictures by likeness to one of the gallery's own; loads no model.

        Args:
            image_id: A picture of the gallery; it is left out of its own answer.
            k: Hits wanted.
            lens: ``captions`` compares captions, ``clip`` pictures.
            index: One that the gallery has; None takes its best.
            nprobe: As in :meth:`by_text`.

        Raises:
            QueryError: The request cannot be answered.
            UnknownImageError: No such id.
        """
        k, kind, nprobe = self._check(k, lens, index, nprobe)
        started = time.perf_counter()
        embedding = self.gallery.embedding(lens, image_id)
        encode_ms = _ms_since(started)
        hits, search_ms = self._search(embedding, k + 1, lens, kind, nprobe)
        searched(lens)
        ranked = _ranked_anew(hit for hit in hits if hit.id != image_id)[:k]
        return SearchResult(lens, kind, ranked, encode_ms, search_ms, cached=True)

    def compare(
        self,
        query: str,
        k: int = 5,
        index: IndexKind | None = None,
        fusion: Fusion | None = None,
        start: int = 0,
        text: Callable[[ParsedQuery, int], Sequence[TextHit]] | None = None,
    ) -> Comparison:
        """Ask both lenses; if one fails, the other still answers.

        Each lens is ranked to the depth of the fusion, and ``search_ms`` says what that took.

        Args:
            query: As for :meth:`by_text`.
            k: Hits wanted of each lens and of the fusion.
            index: One that the gallery has; None takes its best.
            fusion: How the lenses are joined; None takes the profile's.
            start: Hits to pass over in each list, for a later page of the same rankings.
            text: Finds pictures by the text in them, which is joined too; None leaves it out.

        Raises:
            QueryError: The request cannot be answered, by any lens.
        """
        k, kind, _ = self._check(k, "captions", index, None)
        asked = self.parse(query)
        coming = {lens: begin_query(self.models, self.gallery, lens, asked) for lens in LENSES}
        among = allowed_rows(self.gallery, asked.filters)
        deep: dict[Lens, SearchResult] = {}
        failures: dict[Lens, str] = {}
        for lens in LENSES:
            try:
                encoded = coming[lens].result()
                depth = max(start + k, FUSION_DEPTH)
                deep[lens] = self._ranked(asked, encoded, depth, lens, kind, None, among)
            except QueryError:
                raise
            except TwoLensError as error:
                logger.warning("the %s lens failed: %s", lens, error)
                failures[lens] = str(error)
            except Exception:  # whatever breaks one lens, the other can answer
                logger.exception("the %s lens failed", lens)
                failures[lens] = "This lens failed to answer; the server's log has the reason."
        fusion = fusion or self.models.profile.served_fusion
        rankings = {lens: result.hits for lens, result in deep.items()}
        read = text(asked, max(start + k, FUSION_DEPTH)) if text else []
        read = [found for found in read if found.hit.id not in asked.pictures]
        (fused,) = self._fused(asked.text, rankings, [fusion], read)
        page = slice(start, start + k)
        shown = {lens: replace(result, hits=result.hits[page]) for lens, result in deep.items()}
        return Comparison(
            query=asked.text,
            captions=shown.get("captions"),
            clip=shown.get("clip"),
            fused=tuple(fused[page]),
            fusion=fusion,
            rankings=rankings,
            agreement=_agreement(shown),
            failures=failures,
            text=read,
        )

    def fuse_again(
        self, comparison: Comparison, fusions: Sequence[Fusion], k: int = 5, start: int = 0
    ) -> list[tuple[FusedHit, ...]]:
        """Join the rankings of a comparison in other ways, without searching again.

        Args:
            comparison: Of this service.
            fusions: How.
            k: Hits wanted of each.
            start: Hits to pass over.

        Returns:
            The best k by each fusion, best first.

        Raises:
            QueryError: k is out of range.
        """
        k = picture_count(k)
        fused = self._fused(comparison.query, comparison.rankings, fusions, comparison.text)
        return [tuple(hits[start : start + k]) for hits in fused]

    def _fused(
        self,
        text: str,
        rankings: Mapping[Lens, Sequence[Hit]],
        fusions: Sequence[Fusion],
        read: Sequence[TextHit],
    ) -> list[list[FusedHit]]:
        by_rank = len(rankings) < len(LENSES) or all(fusion.kind == "rrf" for fusion in fusions)
        if by_rank:
            return [fuse(fusion, rankings, text=read) for fusion in fusions]
        hits = chain(*rankings.values(), (found.hit for found in read))
        ids = list(dict.fromkeys(hit.id for hit in hits))
        queries = {lens: embed_query(self.models, self.gallery, lens, text) for lens in LENSES}
        scores = {
            lens: dict(zip(ids, self.gallery.scores(lens, ids, query).tolist(), strict=True))
            for lens, query in queries.items()
        }
        spreads = {lens: self.gallery.spread(lens, query) for lens, query in queries.items()}
        owed = None
        if any(fusion.kind == "corrected" for fusion in fusions):
            owed = dict(
                zip(ids, hub_penalties(self.models, self.gallery, ids).tolist(), strict=True)
            )
        return [fuse(fusion, rankings, scores, spreads, read, owed) for fusion in fusions]

    def _ranked(
        self,
        asked: ParsedQuery,
        encoded: EncodedQuery,
        k: int,
        lens: Lens,
        index: IndexKind,
        nprobe: int | None,
        among: np.ndarray | None,
    ) -> SearchResult:
        shown = frozenset(asked.pictures)
        depth = k + len(shown)
        hits, search_ms = self._search(encoded.embedding, depth, lens, index, nprobe, among)
        if shown:  # nobody looks for a picture that they have
            hits = _ranked_anew(hit for hit in hits if hit.id not in shown)[:k]
        searched(lens, asked.text)
        took = encoded.encode_ms, search_ms
        left = None if among is None else int(np.count_nonzero(among))
        return SearchResult(lens, index, hits, *took, encoded.cached, asked.is_plain, left)

    def _search(
        self,
        embedding: np.ndarray,
        k: int,
        lens: Lens,
        kind: IndexKind,
        nprobe: int | None,
        among: np.ndarray | None = None,
    ) -> tuple[tuple[Hit, ...], float]:
        index = self.gallery.index(lens, kind)
        started = time.perf_counter()
        (hits,) = index.search(embedding[np.newaxis], k, nprobe=nprobe, among=among)
        if lens == "captions":
            hits = self._with_nearest_captions(hits, embedding)
        return tuple(hits), _ms_since(started)

    def _with_nearest_captions(self, hits: list[Hit], embedding: np.ndarray) -> list[Hit]:
        nearest = self.gallery.nearest_captions([hit.id for hit in hits], embedding)
        return [
            replace(hit, caption=caption) if caption else hit
            for hit, caption in zip(hits, nearest, strict=True)
        ]

    def normalise(self, query: str) -> str:
        """Return a query as it is searched; see :func:`core.search.query.normalise_query`.

        Raises:
            QueryError: It is empty or too long.
        """
        return normalise_query(query, self.max_query_chars)

    def parse(self, query: str) -> ParsedQuery:
        """Return a query in its parts, normalised.

        Raises:
            QueryError: It is empty or too long, or its parts make no query.
        """
        return parse_query(self.normalise(query))

    def passing(self, query: ParsedQuery) -> np.ndarray:
        """Return the rows of the pictures that meet a query's filters, rising: int64 (n,)."""
        allowed = allowed_rows(self.gallery, query.filters)
        every = np.ones(len(self.gallery.records), np.bool_)
        rows: np.ndarray = np.flatnonzero(every if allowed is None else allowed)
        return rows

    def _check(
        self, k: int, lens: str, index: IndexKind | None, nprobe: int | None
    ) -> tuple[int, IndexKind, int | None]:
        check_lens(lens)
        kind = check_index_kind(index, self.gallery.index_kinds)
        return picture_count(k), kind, probe_count(nprobe)


def _agreement(results: Mapping[Lens, SearchResult]) -> Agreement | None:
    if len(results) < len(LENSES):
        return None
    first, second = ([hit.id for hit in results[lens].hits] for lens in LENSES)
    return agreement(first, second)


def _ranked_anew(hits: Iterable[Hit]) -> tuple[Hit, ...]:
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1))


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
