"""What a search answers: of one lens, and of both side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.records import FusedHit, Fusion, Hit, IndexKind, Lens
from core.search.agreement import Agreement

if TYPE_CHECKING:
    from core.search.bm25.picture_text import TextHit

FUSION_DEPTH = 50
"""How deep each lens is ranked for the fusion, whatever k: a picture that both lenses rank
sixth belongs above one that a single lens ranks fifth, and only a deeper ranking can tell."""


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
        plain: It was asked for by words alone: scores of composed queries lie elsewhere.
        left: Pictures that the query's filters leave to be ranked; None without filters.
    """

    lens: Lens
    index: IndexKind
    hits: tuple[Hit, ...]
    encode_ms: float
    search_ms: float
    cached: bool
    plain: bool = True
    left: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both lenses' answers to one query.

    Attributes:
        query: As it was searched, normalised.
        captions: The caption lens's answer; None if it failed.
        clip: The CLIP lens's answer; None if it failed.
        fused: The best k of ``rankings``, or a later page. A hit's ``sources`` give its rank and
            score in each lens, beyond k too.
        fusion: How they were joined.
        rankings: The first :data:`FUSION_DEPTH` hits of each lens that answered, or as many as
            the page needs.
        agreement: Of the two lists of k; None if a lens failed.
        failures: A sentence for the visitor, by the lens that failed.
        text: What was found by the text in the pictures, and joined in ``fused``; mostly nothing.
    """

    query: str
    captions: SearchResult | None
    clip: SearchResult | None
    fused: tuple[FusedHit, ...]
    fusion: Fusion
    rankings: Mapping[Lens, tuple[Hit, ...]]
    agreement: Agreement | None
    failures: Mapping[Lens, str]
    text: Sequence[TextHit] = ()
