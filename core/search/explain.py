"""Why a picture was found: what each word of its captions, and each patch of it, says to a query.

The sentence encoder's embedding is the mean of its tokens' vectors, so the cosine of two texts is
a sum over all pairs of a token of one and a token of the other: nothing is approximated. What a
token's vector says depends on its whole sentence, so a word's share is what it brought in there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.errors import TwoLensError
from core.records import LENSES, CaptionPooling, Fusion, Lens
from core.search.fusion import Spread, standardised
from core.search.hub_scores import HubScored, hub_penalties
from core.search.query_language.compose import (
    Embedded,
    embed_parts,
    embed_query,
    unit_weights,
)
from core.search.query_language.parse import ParsedQuery, Part, parse_query

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.models.clip.patches import PatchRelevance
    from core.models.profiles import Models
    from core.models.sentence.encoder import TokenEmbeddings

_MOST_WORDS = 12
_SMALL_WORDS = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its")
    + ("of", "on", "or", "that", "the", "their", "this", "to", "with")
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text and what it added to a score.

    Attributes:
        start: Where it begins in the text, in characters.
        end: Where it ends.
        share: What it added to the score; may be negative.
    """

    start: int
    end: int
    share: float


@dataclass(frozen=True, slots=True)
class CaptionShare:
    """What one caption of a picture added to the picture's score.

    Attributes:
        share: In all: its words and ``rest``.
        words: Of the caption, in order.
        rest: Of the tokens that mark the caption's ends.
    """

    share: float
    words: tuple[Word, ...]
    rest: float


@dataclass(frozen=True, slots=True)
class ScoreSplit:
    """A caption-lens score as a sum, once over the query's words and once over the captions'.

    Attributes:
        score: Cosine in [-1, 1], what the caption lens ranks by.
        query_words: In order; with ``query_rest`` they add up to the score.
        query_rest: Of the tokens that mark the query's ends.
        captions: One for each caption; their shares add up to the score.
    """

    score: float
    query_words: tuple[Word, ...]
    query_rest: float
    captions: tuple[CaptionShare, ...]


def split_score(
    query: TokenEmbeddings, captions: Sequence[TokenEmbeddings], pooling: CaptionPooling = "mean"
) -> ScoreSplit:
    """Split the score of a picture for plain words into what each word added.

    Args:
        query: Of the query.
        captions: Of each caption of the picture: one or more.
        pooling: How several captions are indexed: ``mean`` of their embeddings, or the ``best``,
            and then only the nearest caption has a share.
    """
    asked = query.vectors.mean(axis=0, dtype=np.float64)
    unit = asked / max(float(np.linalg.norm(asked)), 1e-12)
    return split_composed(unit, [(1.0, query)], captions, pooling)


def split_composed(
    unit: np.ndarray,
    parts: Sequence[tuple[float, TokenEmbeddings]],
    captions: Sequence[TokenEmbeddings],
    pooling: CaptionPooling = "mean",
) -> ScoreSplit:
    """Split the score of a picture for a query of several parts; what pictures add is the rest.

    Args:
        unit: The query's embedding: float (dim,), unit norm.
        parts: For each part that is words: the weight of its unit embedding in ``unit``, and its
            tokens.
        captions: As for :func:`split_score`.
        pooling: Likewise.
    """
    means = np.stack([each.vectors.mean(axis=0, dtype=np.float64) for each in captions])
    units = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    if pooling == "best":
        weights = np.zeros(len(captions))
        weights[int((units @ unit).argmax())] = 1.0
    else:
        weights = np.full(len(captions), 1 / max(float(np.linalg.norm(units.sum(axis=0))), 1e-12))
    picture = weights @ units
    of_query: list[Word] = []
    for weight, tokens in parts:
        norm = float(np.linalg.norm(tokens.vectors.mean(axis=0, dtype=np.float64)))
        of_query += _by_word(tokens, tokens.vectors @ picture * weight / max(norm, 1e-12))[0]
    of_query.sort(key=lambda word: word.start)
    score = float(unit @ picture)
    shares = []
    for tokens, mean, weight in zip(captions, means, weights, strict=True):
        factor = weight / max(float(np.linalg.norm(mean)), 1e-12)
        words, rest = _by_word(tokens, tokens.vectors @ unit * factor)
        shares.append(CaptionShare(sum(word.share for word in words) + rest, words, rest))
    query_rest = score - sum(word.share for word in of_query)
    return ScoreSplit(score, tuple(of_query), query_rest, tuple(shares))


def _by_word(tokens: TokenEmbeddings, parts: np.ndarray) -> tuple[tuple[Word, ...], float]:
    """Add up what the tokens' vectors gave, word by word; the mean divides it by their number."""
    sums = [0.0] * len(tokens.spans)
    rest = 0.0
    for word, part in zip(tokens.words, parts / len(tokens.words), strict=True):
        if word is None:
            rest += float(part)
        else:
            sums[word] += float(part)
    words = (Word(*span, share) for span, share in zip(tokens.spans, sums, strict=True))
    return tuple(words), rest


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one picture stands where it does for one query.

    Attributes:
        captions: The caption lens's score in parts; None if it failed.
        clip_score: The CLIP lens's score; None if it failed.
        words: What ``patches`` were asked for: the whole query, then its words, the small ones
            left out.
        patches: Where CLIP sees each of ``words``; None if it cannot be shown.
        fused: What each lens adds to the score of a fusion that adds up scores; None for others.
        failures: A sentence for the visitor, by the lens that could not be explained.
    """

    captions: ScoreSplit | None
    clip_score: float | None
    words: tuple[str, ...]
    patches: PatchRelevance | None
    fused: Mapping[Lens, float] | None
    failures: Mapping[Lens, str]


class Scored(Embedded, HubScored, Protocol):
    """What an explanation needs of a gallery."""

    def scores(self, lens: Lens, image_ids: Sequence[str], query: np.ndarray) -> np.ndarray:
        """Return the scores of some pictures for a query."""
        ...

    def spread(self, lens: Lens, query: np.ndarray) -> Spread:
        """Return how the scores of all pictures lie for a query."""
        ...


def explain(
    models: Models,
    pictures: Scored,
    query: str,
    image_id: str,
    captions: Sequence[str],
    image: Image,
    *,
    pooling: CaptionPooling = "mean",
    fusion: Fusion,
) -> Explanation:
    """Explain one picture's place; if one lens cannot be explained, the other still is.

    Args:
        models: What the pictures were embedded with.
        pictures: The gallery.
        query: Normalised.
        image_id: Of the picture.
        captions: All captions of the picture.
        image: The picture, RGB, of any size.
        pooling: How the gallery indexes several captions.
        fusion: How the lenses are joined.

    Raises:
        UnknownImageError: No such id.
    """
    parsed = parse_query(query)
    failures: dict[Lens, str] = {}
    scores: dict[Lens, float] = {}
    for lens in LENSES:
        try:
            embedding = embed_query(models, pictures, lens, query)
            scores[lens] = float(pictures.scores(lens, [image_id], embedding)[0])
        except TwoLensError as error:
            failures[lens] = str(error)
    split = None
    if "captions" in scores:
        split = _split(models, pictures, parsed, captions, pooling)
    words = (query, *_words(parsed.words))
    patches = None
    if "clip" in scores:
        try:
            rows = models.clip.encode_text(words)
            if not parsed.is_plain:
                rows = np.stack([embed_query(models, pictures, "clip", query), *rows[1:]])
            patches = models.clip.explain(image, rows)
        except TwoLensError as error:
            failures["clip"] = str(error)
    return Explanation(
        captions=split,
        clip_score=scores.get("clip"),
        words=words,
        patches=patches,
        fused=joined_parts(models, pictures, query, image_id, scores, fusion),
        failures=failures,
    )


def _split(
    models: Models,
    pictures: Scored,
    query: ParsedQuery,
    captions: Sequence[str],
    pooling: CaptionPooling,
) -> ScoreSplit:
    """Split a caption-lens score; a word's place is that in the query, whatever its part."""
    words = [part for part in query.parts if part.text]
    texts = [_blanked(query.text, part) for part in words]
    tokens = models.sentence.encode_tokens([*texts, *captions])
    asked, said = tokens[: len(words)], tokens[len(words) :]
    if query.is_plain:
        return split_score(asked[0], said, pooling)
    rows = embed_parts(models, pictures, "captions", query)
    weights = unit_weights(query.parts, rows)
    own = [weight for part, weight in zip(query.parts, weights, strict=True) if part.text]
    unit = weights @ np.asarray(rows, dtype=np.float64)
    return split_composed(unit, list(zip(own, asked, strict=True)), said, pooling)


def _blanked(query: str, part: Part) -> str:
    """Return a query with spaces in the place of all but one part's words."""
    kept = [" "] * len(query)
    for start, end in part.words_at:
        kept[start:end] = query[start:end]
    return "".join(kept)


def _words(query: str) -> list[str]:
    found = dict.fromkeys(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", query))
    told = [word for word in found if word.lower() not in _SMALL_WORDS]
    return told[:_MOST_WORDS] if len(told) > 1 else []


def joined_parts(
    models: Models,
    pictures: Scored,
    query: str,
    image_id: str,
    scores: Mapping[Lens, float],
    fusion: Fusion,
) -> dict[Lens, float] | None:
    """Return what each lens adds to a picture's score in a sum; None for another fusion.

    Args:
        models: What the pictures were embedded with.
        pictures: The gallery.
        query: Normalised.
        image_id: Of the picture.
        scores: The lenses' own; without one of them nothing is added up.
        fusion: How the lenses are joined.
    """
    if len(scores) < len(LENSES) or not (fusion.standardises or fusion.kind == "cosine"):
        return None
    weights = dict(zip(LENSES, (fusion.weight, 1 - fusion.weight), strict=True))
    own = {lens: np.array(score) for lens, score in scores.items()}
    if fusion.kind == "corrected":
        own["clip"] = own["clip"] - hub_penalties(models, pictures, [image_id])[0]
    if fusion.standardises:
        for lens in LENSES:
            spread = pictures.spread(lens, embed_query(models, pictures, lens, query))
            own[lens] = standardised(own[lens], spread)
    return {lens: float(weights[lens] * own[lens]) for lens in LENSES}
