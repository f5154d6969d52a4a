"""A search: what may be asked, what is answered, and how long each part took."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.errors import QueryError, TwoLensError
from core.records import LENSES, FusedHit, Fusion, Hit, IndexKind, Lens
from core.search.agreement import Agreement, agreement
from core.search.fusion import Spread, fuse
from core.search.index import Index, check_index_kind
from core.search.query import check_lens
from core.text import has_content, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.models.profiles import Models

logger = logging.getLogger(__name__)

MAX_K = 50
"""Most hits that one search returns."""

FUSION_DEPTH = 50
"""How deep each lens is ranked for the fusion, whatever k: a picture that both lenses rank
sixth belongs above one that a single lens ranks fifth, and only a deeper ranking can tell."""

_TIMED_RUNS = 5


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One lens's answer.

    Attributes:
        lens: Which lens.
        index: Which kind of index was searched.
        hits: Best first, at most k.
        encode_ms: Milliseconds to get the query's embedding: the encoder's forward pass, or the
            look-up if ``cached``.
        search_ms: Milliseconds in the index.
        cached: The embedding was there already, from an earlier query or as the gallery's own.
    """

    lens: Lens
    index: IndexKind
    hits: tuple[Hit, ...]
    encode_ms: float
    search_ms: float
    cached: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both lenses' answers to one query.

    Attributes:
        query: As it was searched, normalised.
        captions: The caption lens's answer; None if it failed.
        clip: The CLIP lens's answer; None if it failed.
        fused: The best k of the first :data:`FUSION_DEPTH` of each lens that answered.
            A hit's ``sources`` give its rank and score in each, beyond k too.
        fusion: How they were joined.
        agreement: Of the two lists of k; None if a lens failed.
        failures: A sentence for the visitor, by the lens that failed.
    """

    query: str
    captions: SearchResult | None
    clip: SearchResult | None
    fused: tuple[FusedHit, ...]
    fusion: Fusion
    agreement: Agreement | None
    failures: Mapping[Lens, str]


@dataclass(frozen=True, slots=True)
class IndexComparison:
    """The same search in both kinds of index.

    Attributes:
        flat: The exact answer; ``search_ms`` is the median of a few runs, here and in ``ivf``.
        ivf: The answer from the nearest clusters.
        kept: How many of flat's hits IVF found too.
    """

    flat: SearchResult
    ivf: SearchResult
    kept: int


class Searchable(Protocol):
    """What a search needs of a gallery, or of an upload."""

    def index(self, lens: Lens, kind: IndexKind) -> Index:
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
    answered: an empty or overlong query, k outside 1 to :data:`MAX_K`, an unknown lens or index,
    nprobe below 1. k is capped at the size of the gallery, nprobe at the number of clusters.

    Attributes:
        gallery: What is searched.
        models: What embeds the queries.
        max_query_chars: Longest query that is answered.
    """

    def __init__(self, gallery: Searchable, models: Models, max_query_chars: int = 1000) -> None:
        """Remember what to search and with what; load nothing."""
        self.gallery = gallery
        self.models = models
        self.max_query_chars = max_query_chars

    def by_text(
        self,
        query: str,
        k: int = 5,
        lens: Lens = "captions",
        index: IndexKind = "flat",
        nprobe: int | None = None,
    ) -> SearchResult:
        """Rank the pictures for a text through one lens.

        Args:
            query: Any language; see :func:`normalise_query`.
            k: Hits wanted.
            lens: ``captions`` or ``clip``.
            index: ``flat`` or ``ivf``.
            nprobe: Clusters an IVF search looks into; None leaves it to the index.

        Raises:
            QueryError: The request cannot be answered.
            ModelError: The lens's encoder cannot be loaded.
        """
        k, nprobe = self._check(k, lens, index, nprobe)
        return self._by_text(self._normalise(query), k, lens, index, nprobe)

    def by_image(
        self,
        image: Image,
        k: int = 5,
        lens: Lens = "clip",
        index: IndexKind = "flat",
        nprobe: int | None = None,
    ) -> SearchResult:
        """Rank the pictures by likeness to an image, which only the CLIP lens can embed.

        Args:
            image: RGB, oriented.
            k: Hits wanted.
            lens: ``clip``.
            index: ``flat`` or ``ivf``.
            nprobe: As in :meth:`by_text`.

        Raises:
            QueryError: The request cannot be answered.
            ModelError: The image tower cannot be loaded.
        """
        k, nprobe = self._check(k, lens, index, nprobe)
        if lens != "clip":
            raise QueryError("Only the CLIP lens can search by a picture: captions are text.")
        started = time.perf_counter()
        embedding = self.models.clip.encode_image([image])[0]
        encode_ms = _ms_since(started)
        hits, search_ms = self._search(embedding, k, lens, index, nprobe)
        return SearchResult(lens, index, hits, encode_ms, search_ms, cached=False)

    def similar(
        self,
        image_id: str,
        k: int = 5,
        lens: Lens = "clip",
        index: IndexKind = "flat",
        nprobe: int | None = None,
    ) -> SearchResult:
        """Rank the other pictures by likeness to one of the gallery's own; loads no model.

        Args:
            image_id: A picture of the gallery; it is left out of its own answer.
            k: Hits wanted.
            lens: ``captions`` compares captions, ``clip`` pictures.
            index: ``flat`` or ``ivf``.
            nprobe: As in :meth:`by_text`.

        Raises:
            QueryError: The request cannot be answered.
            UnknownImageError: No such id.
        """
        k, nprobe = self._check(k, lens, index, nprobe)
        started = time.perf_counter()
        embedding = self.gallery.embedding(lens, image_id)
        encode_ms = _ms_since(started)
        hits, search_ms = self._search(embedding, k + 1, lens, index, nprobe)
        others = [hit for hit in hits if hit.id != image_id][:k]
        ranked = tuple(replace(hit, rank=rank) for rank, hit in enumerate(others, start=1))
        return SearchResult(lens, index, ranked, encode_ms, search_ms, cached=True)

    def compare(
        self, query: str, k: int = 5, index: IndexKind = "flat", fusion: Fusion | None = None
    ) -> Comparison:
        """Ask both lenses; if one fails, the other still answers.

        Each lens is ranked to the depth of the fusion, and ``search_ms`` says what that took.

        Args:
            query: Any language; see :func:`normalise_query`.
            k: Hits wanted of each lens and of the fusion.
            index: ``flat`` or ``ivf``.
            fusion: How the lenses are joined; None takes the profile's.

        Raises:
            QueryError: The request cannot be answered, by any lens.
        """
        k, _ = self._check(k, "captions", index, None)
        text = self._normalise(query)
        deep: dict[Lens, SearchResult] = {}
        failures: dict[Lens, str] = {}
        for lens in LENSES:
            try:
                deep[lens] = self._by_text(text, max(k, FUSION_DEPTH), lens, index, None)
            except TwoLensError as error:
                logger.warning("the %s lens failed: %s", lens, error)
                failures[lens] = str(error)
            except Exception:  # whatever breaks one lens, the other can answer
                logger.exception("the %s lens failed", lens)
                failures[lens] = "This lens failed to answer; the server's log has the reason."
        fusion = fusion or self.models.profile.fusion
        fused = self._fused(text, deep, fusion)[:k]
        shown = {lens: replace(result, hits=result.hits[:k]) for lens, result in deep.items()}
        return Comparison(
            query=text,
            captions=shown.get("captions"),
            clip=shown.get("clip"),
            fused=tuple(fused),
            fusion=fusion,
            agreement=_agreement(shown),
            failures=failures,
        )

    def _fused(
        self, text: str, deep: Mapping[Lens, SearchResult], fusion: Fusion
    ) -> list[FusedHit]:
        rankings = {lens: result.hits for lens, result in deep.items()}
        if fusion.kind == "rrf" or len(deep) < len(LENSES):
            return fuse(fusion, rankings)
        ids = list(dict.fromkeys(hit.id for hits in rankings.values() for hit in hits))
        queries = {lens: self.models.encode_query(lens, text).embedding for lens in LENSES}
        scores = {
            lens: dict(zip(ids, self.gallery.scores(lens, ids, query).tolist(), strict=True))
            for lens, query in queries.items()
        }
        spreads = {lens: self.gallery.spread(lens, query) for lens, query in queries.items()}
        return fuse(fusion, rankings, scores, spreads)

    def compare_indexes(
        self, query: str, lens: Lens, k: int = 5, nprobe: int | None = None
    ) -> IndexComparison:
        """Search the flat and the IVF index for the same text, and time both.

        Raises:
            QueryError: The request cannot be answered.
            ModelError: The lens's encoder cannot be loaded.
        """
        k, nprobe = self._check(k, lens, "ivf", nprobe)
        encoded = self.models.encode_query(lens, self._normalise(query))
        timings: dict[IndexKind, list[float]] = {"flat": [], "ivf": []}
        hits: dict[IndexKind, tuple[Hit, ...]] = {}
        for _ in range(_TIMED_RUNS):  # in turn, so that a busy moment does not hit one kind only
            for kind, runs in timings.items():
                hits[kind], elapsed = self._search(encoded.embedding, k, lens, kind, nprobe)
                runs.append(elapsed)
        flat, ivf = (
            SearchResult(
                lens, kind, hits[kind], encoded.encode_ms, median(timings[kind]), encoded.cached
            )
            for kind in timings
        )
        kept = len({hit.id for hit in flat.hits} & {hit.id for hit in ivf.hits})
        return IndexComparison(flat=flat, ivf=ivf, kept=kept)

    def _by_text(
        self, text: str, k: int, lens: Lens, index: IndexKind, nprobe: int | None
    ) -> SearchResult:
        encoded = self.models.encode_query(lens, text)
        hits, search_ms = self._search(encoded.embedding, k, lens, index, nprobe)
        return SearchResult(lens, index, hits, encoded.encode_ms, search_ms, encoded.cached)

    def _search(
        self, embedding: np.ndarray, k: int, lens: Lens, kind: IndexKind, nprobe: int | None
    ) -> tuple[tuple[Hit, ...], float]:
        index = self.gallery.index(lens, kind)
        started = time.perf_counter()
        (hits,) = index.search(embedding[np.newaxis], k, nprobe=nprobe)
        if lens == "captions":
            hits = self._with_nearest_captions(hits, embedding)
        return tuple(hits), _ms_since(started)

    def _with_nearest_captions(self, hits: list[Hit], embedding: np.ndarray) -> list[Hit]:
        nearest = self.gallery.nearest_captions([hit.id for hit in hits], embedding)
        return [
            replace(hit, caption=caption) if caption else hit
            for hit, caption in zip(hits, nearest, strict=True)
        ]

    def _normalise(self, query: str) -> str:
        return normalise_query(query, self.max_query_chars)

    def _check(self, k: int, lens: str, index: str, nprobe: int | None) -> tuple[int, int | None]:
        check_lens(lens)
        check_index_kind(index)
        if nprobe is not None:
            nprobe = _whole("nprobe", nprobe, 1, None)
        return _whole("k", k, 1, MAX_K), nprobe


def normalise_query(query: str, max_chars: int = 1000) -> str:
    """Return the query as it is searched and cached, or raise one clear sentence.

    It is cleaned by :func:`core.text.one_line`.

    Args:
        query: What the visitor typed.
        max_chars: Longest query that is answered, counted without surrounding whitespace.

    Raises:
        QueryError: Not a text, nothing in it to search for, or too long.
    """
    if not isinstance(query, str):
        raise QueryError("The query must be a text.")
    stripped = query.strip()
    if len(stripped) > max_chars:
        raise QueryError(
            f"The query has {len(stripped):,} characters; at most {max_chars:,} are searched."
        )
    text = one_line(stripped)
    if not has_content(text):
        raise QueryError("Type what you are looking for: the query is empty.")
    return text


def _agreement(results: Mapping[Lens, SearchResult]) -> Agreement | None:
    if len(results) < len(LENSES):
        return None
    first, second = ([hit.id for hit in results[lens].hits] for lens in LENSES)
    return agreement(first, second)


def _whole(name: str, value: float, low: int, high: int | None) -> int:
    """Accept 5 and, as JSON and sliders give it, 5.0."""
    fits = not isinstance(value, bool) and isinstance(value, (int, float, np.integer))
    if not fits or value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise QueryError(f"{name} must be a whole number; got {str(value)[:40]!r}.")
    if value < low or (high is not None and value > high):
        limits = f"between {low} and {high}" if high is not None else f"{low} or more"
        raise QueryError(f"{name} must be {limits}; got {int(value)}.")
    return int(value)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
