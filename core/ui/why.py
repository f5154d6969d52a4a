"""Why a picture stands where it does: ``/why``, and with another caption: ``/try_caption``."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.config import get_settings
from core.images.decode import DecodeLimits, decode
from core.records import ImageRecord
from core.search.bm25.picture_text import share_of, shared_words
from core.search.explain import CaptionShare, Explanation, Word, explain
from core.search.fusion import TEXT_WEIGHT
from core.search.picture_ranks import Place, with_caption
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.mcp_answers import description_of
from core.ui.parts.events import for_endpoint

_DECIMALS = 5


def add_why_endpoint(shelf: Shelf) -> None:
    """Add the endpoints to the current ``gr.Blocks``."""

    @for_endpoint
    def why(query: str, image_id: str, gallery: str = "") -> dict[str, Any]:
        """Explain why a picture was found: the words and the parts of it that speak for a query.

        Args:
            query: What was searched, at most 1,000 characters.
            image_id: Id of the picture, from any other endpoint.
            gallery: Name of a gallery from /galleries; the first one if empty.

        Returns:
            query, image_id, captions (score, and its exact split: query_words and, for each
            caption, words, each with its share; with the rest they add up to the score), clip
            (score, words, the whole query first, and for each a map of rows of patches from 0 to 1
            over the area of the picture: left, top, width, height as shares of it), text (what can
            be read in the picture, how sure the reader is, and the words of it that are nearly
            words of the query, and added: what that adds to the joined score where text is joined
            too; null where nothing was read), fused (what each lens adds to the
            joined score), and failures (a sentence for each lens that cannot be explained).
        """
        return why_json(shelf.entry(gallery), query, image_id)

    @for_endpoint
    def try_caption(query: str, image_id: str, caption: str, gallery: str = "") -> dict[str, Any]:
        """Tell where a picture would stand for a query if its caption were another one.

        Nothing is stored: the gallery stays as it is.

        Args:
            query: What was searched, at most 1,000 characters.
            image_id: Id of the picture, from any other endpoint.
            caption: The caption to try, at most 1,000 characters.
            gallery: Name of a gallery from /galleries; the first one if empty.

        Returns:
            query, image_id, caption, pictures (how many there are), and captions and fused, each
            with before and after: score and rank (fused is null where lenses are joined by rank).
        """
        return caption_json(shelf.entry(gallery), query, image_id, caption)

    gr.api(
        try_caption,
        api_name="try_caption",
        api_description=description_of(try_caption),
        queue=False,
        concurrency_id="search",
        concurrency_limit=None,
    )
    gr.api(
        why,
        api_name="why",
        api_description=description_of(why),
        queue=False,
        # An explanation runs an image tower; searches do not wait for it.
        concurrency_id="why",
        concurrency_limit=2,
    )


def why_json(entry: ShelvedGallery, query: str, image_id: str) -> dict[str, Any]:
    """Return an explanation as ``/why`` documents it."""
    service, gallery = entry.service, entry.gallery
    text = service.normalise(query)
    record = gallery.record(image_id)
    limits = DecodeLimits.of(get_settings())
    picture = decode(gallery.read_thumbnail(record.id), record.file_name, limits).image
    texts = [caption.text for caption in record.captions]
    found = explain(
        service.models,
        gallery,
        text,
        record.id,
        texts,
        picture,
        pooling=entry.caption_pooling,
        fusion=service.models.profile.served_fusion,
    )
    return {
        "query": text,
        "image_id": record.id,
        "captions": _captions(found, text, texts),
        "clip": _clip(found),
        "text": _text(record, service.parse(query).words),
        "fused": found.fused and {lens: round(part, 4) for lens, part in found.fused.items()},
        "failures": dict(found.failures),
    }


def caption_json(entry: ShelvedGallery, query: str, image_id: str, caption: str) -> dict[str, Any]:
    """Return the places as ``/try_caption`` documents them."""
    service = entry.service
    text, tried = service.normalise(query), service.normalise(caption)
    fusion = service.models.profile.served_fusion
    found = with_caption(service.models, entry.gallery, text, image_id, tried, fusion)
    return {
        "query": text,
        "image_id": image_id,
        "caption": tried,
        "pictures": found.pictures,
        "captions": _places(found.captions),
        "fused": found.fused and _places(found.fused),
    }


def _places(places: tuple[Place, Place]) -> dict[str, dict[str, float]]:
    return {
        name: {"score": round(place.score, _DECIMALS), "rank": place.rank}
        for name, place in zip(("before", "after"), places, strict=True)
    }


def _captions(found: Explanation, query: str, texts: list[str]) -> dict[str, Any] | None:
    split = found.captions
    if split is None:
        return None
    return {
        "score": round(split.score, _DECIMALS),
        "query_words": _words(query, split.query_words),
        "query_rest": round(split.query_rest, _DECIMALS),
        "captions": [
            _caption(text, share) for text, share in zip(texts, split.captions, strict=True)
        ],
    }


def _caption(text: str, share: CaptionShare) -> dict[str, Any]:
    return {
        "text": text,
        "share": round(share.share, _DECIMALS),
        "words": _words(text, share.words),
        "rest": round(share.rest, _DECIMALS),
    }


def _words(text: str, words: tuple[Word, ...]) -> list[dict[str, Any]]:
    return [
        {
            "text": text[word.start : word.end],
            "start": word.start,
            "end": word.end,
            "share": round(word.share, _DECIMALS),
        }
        for word in words
    ]


def _text(record: ImageRecord, query: str) -> dict[str, Any] | None:
    if not record.text_in_picture:
        return None
    return {
        "text": record.text_in_picture,
        "confidence": record.text_confidence,
        "words": list(shared_words(query, record.text_in_picture)),
        "added": round(TEXT_WEIGHT * share_of(query, record.text_in_picture), 4),
    }


def _clip(found: Explanation) -> dict[str, Any] | None:
    if found.clip_score is None:
        return None
    words: list[dict[str, Any]] = []
    area = None
    if found.patches is not None:
        area = [round(edge, 4) for edge in found.patches.area]
        for word, patches in zip(found.words, found.patches.patches, strict=True):
            scaled = patches / max(float(patches.max()), 1e-12)
            words.append({"text": word, "patches": scaled.round(2).tolist()})
    return {"score": round(found.clip_score, _DECIMALS), "area": area, "words": words}
