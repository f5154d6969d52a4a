"""The named endpoints: plain values in, JSON out. Their docstrings are the API's documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gradio as gr

from core.errors import QueryError
from core.gallery.manifest import Manifest
from core.records import LENSES, UNSURE, FusedHit, Hit, Lens
from core.search.agreement import shared_by_chance
from core.search.bm25.word_lens import words_in_captions
from core.search.query import fusion_of, hits_before, picture_count
from core.search.query_language.filters import with_filters
from core.search.query_language.parse import ParsedQuery
from core.search.results import SearchResult
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.mcp_answers import description_of
from core.ui.parts.events import for_endpoint, server_address

IndexChoice = Literal["default", "flat", "ivf", "ivfsq8", "ivfpq", "hnsw", "milvus"]

_ENDPOINT: dict[str, Any] = {
    "queue": False,
    "concurrency_id": "search",
    "concurrency_limit": None,
}

_SEARCH = """{finds}

Args:
    query: What the picture should show, at most 1,000 characters; -word subtracts, "some
        words"^2 weighs, like:ID adds a picture of the gallery.
    k: Number of pictures, 1 to 50.
    index: default takes the gallery's best; flat compares with every {kind}, ivf only
        with those of the nearest clusters. A large gallery has ivfsq8, ivfpq or hnsw.
    gallery: Name of a gallery from /galleries; the first one if empty.
    filters: Which pictures are ranked: shape:portrait (landscape, square), megapixels:2
        (or more), licence:"cc by 2.0" (or none), sure:yes (or no), caption:"some words";
        all of several count, and a minus sign before one leaves out what it names. With an
        empty query they are listed in the gallery's order, without scores.
    start: Pictures to pass over, for a later page.
    nprobe: Clusters that an index over clusters looks into; by default as many as the
        build found to be enough.

Returns:
    query, lens, index, hits (lists of rank, id, file_name, score, caption,
    its confidence and whether it is unsure, more_captions, image, license, source),
    total (pictures ranked), matches_well (whether the best hit is a match; null where no
    threshold was chosen, and of later pages), timings_ms.
"""
"""What the endpoint of one lens says of itself."""


def add_endpoints(shelf: Shelf) -> None:
    """Add the endpoints to the current ``gr.Blocks``."""

    @for_endpoint
    def compare(
        query: str,
        k: int = 5,
        gallery: str = "",
        fusion: Literal["default", "rrf", "zscore", "corrected"] = "default",
        caption_weight: float | None = None,
        filters: str = "",
        text: bool = False,
        start: int = 0,
    ) -> dict[str, Any]:
        """Find pictures by words through both lenses, and say how far they agree.

        Args:
            query: What the picture should show, at most 1,000 characters; -word subtracts, "some
                words"^2 weighs, like:ID adds a picture of the gallery.
            k: Pictures per lens, 1 to 50.
            gallery: Name of a gallery from /galleries; the first one if empty.
            fusion: rrf joins the lenses by rank, zscore by a weighted sum of scores, corrected by
                one in which pictures that CLIP finds near to every text count less, default as
                found best for the models.
            caption_weight: Weight of the caption lens in a sum, 0 to 1; CLIP has the rest.
            filters: Which pictures are ranked: shape:portrait (landscape, square), megapixels:2
                (or more), licence:"cc by 2.0" (or none), sure:yes (or no), caption:"some words";
                all of several count, and a minus sign before one leaves out what it names. With an
                empty query they are listed, as fused, in the gallery's order, without scores.
            text: Whether the text in the pictures is joined too, in a gallery where it was read.
            start: Pictures to pass over in each list, for a later page.

        Returns:
            query, captions and clip (lists of rank, id, file_name, score, caption, its
            confidence and whether it is unsure, more_captions: where a picture has several,
            caption is the one nearest to the words; image, the address of a small picture, license
            and source), fused (the same for both lenses
            joined, with the ranks in each lens, and by text if asked for), total (pictures ranked),
            fusion (how they were joined), agreement (overlap, jaccard, rbo, shared and by_chance,
            the number that two blind choices would share; null if only one lens answered),
            matches_well (for each lens whether its best hit is a match; null where no threshold
            was chosen, and of later pages), timings_ms, and
            failures (a sentence for each lens that could not answer; usually empty).
        """
        entry = shelf.entry(gallery)
        return compare_json(entry, query, k, fusion, caption_weight, filters, text, start)

    def searching(lens: Lens, finds: str, kind: str) -> Callable[..., dict[str, Any]]:
        def search(
            query: str,
            k: int = 5,
            index: IndexChoice = "default",
            gallery: str = "",
            filters: str = "",
            start: int = 0,
            nprobe: int | None = None,
        ) -> dict[str, Any]:
            entry = shelf.entry(gallery)
            return _by_text(entry, query, k, lens, index, filters, start, nprobe)

        search.__name__ = f"search_{lens}"
        search.__doc__ = _SEARCH.format(finds=finds, kind=kind)
        return for_endpoint(search)

    search_captions = searching(
        "captions", "Find pictures whose generated captions are close to the words.", "caption"
    )
    search_clip = searching(
        "clip",
        "Find pictures that CLIP places close to the words, without reading a caption.",
        "picture",
    )

    @for_endpoint
    def search_words(
        query: str, k: int = 5, gallery: str = "", filters: str = ""
    ) -> dict[str, Any]:
        """Find pictures whose captions share words with the query, by BM25 and without a model.

        Args:
            query: As for /compare; pictures in it do not count.
            k: Number of pictures, 1 to 50; fewer are found where fewer share a word.
            gallery: Name of a gallery from /galleries; the first one if empty.
            filters: As for /compare.

        Returns:
            query, hits (lists of rank, id, file_name, score, caption, its confidence and whether it
            is unsure, more_captions, image, license, source), timings_ms.
        """
        entry = shelf.entry(gallery)
        asked = entry.service.parse(with_filters(query, filters))
        if not asked.parts:
            return {"query": query, **_passing(entry, asked, k, 0), "timings_ms": {}}
        found = words_in_captions(entry.gallery, asked, picture_count(k))
        return {
            "query": query,
            "hits": [_hit(entry, hit) for hit in found.hits],
            "timings_ms": {"search": round(found.search_ms, 3)},
        }

    @for_endpoint
    def similar(
        image_id: str, lens: Literal["captions", "clip"] = "clip", k: int = 5, gallery: str = ""
    ) -> dict[str, Any]:
        """Find pictures like one picture of a gallery; the picture itself is left out.

        Args:
            image_id: Id of the picture, from any other endpoint.
            lens: captions finds pictures whose captions say the same, clip those that look alike.
            k: Number of pictures, 1 to 50.
            gallery: Name of a gallery from /galleries; the first one if empty.

        Returns:
            image_id, lens, hits (lists of rank, id, file_name, score, caption,
            its confidence and whether it is unsure, more_captions, image, license, source),
            timings_ms.
        """
        return similar_json(shelf.entry(gallery), image_id, lens, k)

    @for_endpoint
    def galleries() -> list[dict[str, Any]]:
        """List the galleries that can be searched.

        Returns:
            For each: name, images, profile, caption_origin, captions_per_image and the models
            that built it.
        """
        return [
            _described(listed.name, listed.manifest)
            for listed in shelf.listed
            if listed.manifest is not None
        ]

    for endpoint in (compare, search_captions, search_clip, search_words, similar, galleries):
        name, description = endpoint.__name__, description_of(endpoint)
        gr.api(endpoint, api_name=name, api_description=description, **_ENDPOINT)


def compare_json(
    entry: ShelvedGallery,
    query: str,
    k: object,
    fusion: str = "default",
    caption_weight: object = None,
    filters: str = "",
    text: bool = False,
    start: object = 0,
) -> dict[str, Any]:
    """Return both lenses' answers as ``/compare`` documents them."""
    asked = fusion_of(fusion, caption_weight, entry.service.models.profile.served_fusion)
    words = with_filters(query, filters)
    parsed = entry.service.parse(words)
    if not parsed.parts:
        listed = _passing(entry, parsed, k, start)
        return {
            **{"query": parsed.text, "captions": [], "clip": [], "fused": listed["hits"]},
            **{"total": listed["total"], "fusion": "none", "agreement": None},
            **{"matches_well": dict.fromkeys(LENSES), "timings_ms": {}, "failures": {}},
        }
    if text and not entry.has_text:
        raise QueryError("The text in the pictures of this gallery was not read.")
    read = entry.gallery.text_hits if text else None
    first = hits_before(start)
    result = entry.service.compare(words, picture_count(k), fusion=asked, start=first, text=read)
    lenses = {"captions": result.captions, "clip": result.clip}
    agreement = result.agreement
    return {
        "query": result.query,
        "captions": _hits(entry, result.captions),
        "clip": _hits(entry, result.clip),
        "fused": [_fused(entry, hit) for hit in result.fused],
        "total": _ranked(entry, lenses),
        "fusion": str(result.fusion),
        "agreement": agreement
        and {
            "overlap": agreement.overlap,
            "jaccard": agreement.jaccard,
            "rbo": agreement.rbo,
            "shared": agreement.shared,
            "by_chance": shared_by_chance(agreement.depth, agreement.depth, _ranked(entry, lenses)),
        },
        "matches_well": {
            lens: None if first else entry.matches_well(found) for lens, found in lenses.items()
        },
        "timings_ms": {
            lens: _timings(found) for lens, found in lenses.items() if found is not None
        },
        "failures": dict(result.failures),
    }


def _ranked(entry: ShelvedGallery, lenses: Mapping[str, SearchResult | None]) -> int:
    """Return how many pictures were ranked: those that the query's filters leave."""
    left = next((found.left for found in lenses.values() if found is not None), None)
    return len(entry.gallery) if left is None else left


def similar_json(entry: ShelvedGallery, image_id: str, lens: Lens, k: object) -> dict[str, Any]:
    """Return the pictures like one picture as ``/similar`` documents them."""
    result = entry.service.similar(image_id, k=picture_count(k), lens=lens)
    return {
        "image_id": image_id,
        "lens": result.lens,
        "hits": _hits(entry, result),
        "timings_ms": _timings(result),
    }


def _by_text(
    entry: ShelvedGallery,
    query: str,
    k: int,
    lens: Lens,
    index: IndexChoice,
    filters: str,
    start: int,
    nprobe: int | None,
) -> dict[str, Any]:
    kind = None if index == "default" else index
    words = with_filters(query, filters)
    parsed = entry.service.parse(words)
    if not parsed.parts:
        listed = _passing(entry, parsed, k, start)
        return {
            **{"query": query, "lens": lens, "index": index, **listed},
            **{"matches_well": None, "timings_ms": {}},
        }
    first = hits_before(start)
    result = entry.service.by_text(words, picture_count(k), lens, kind, nprobe, first)
    return {
        "query": query,
        "lens": result.lens,
        "index": result.index,
        "hits": _hits(entry, result),
        "total": _ranked(entry, {lens: result}),
        "matches_well": None if first else entry.matches_well(result),
        "timings_ms": _timings(result),
    }


def _passing(entry: ShelvedGallery, query: ParsedQuery, k: object, start: object) -> dict[str, Any]:
    """Return a page of what a query of filters alone leaves, which nothing ranked."""
    rows, first = entry.service.passing(query), hits_before(start)
    page = rows[first : first + picture_count(k)].tolist()
    places = enumerate((entry.gallery.ids[row] for row in page), first + 1)
    hits = [{**_hit(entry, Hit(id, 0.0, place)), "score": None} for place, id in places]
    return {"hits": hits, "total": len(rows)}


def _hits(entry: ShelvedGallery, result: SearchResult | None) -> list[dict[str, Any]]:
    return [] if result is None else [_hit(entry, hit) for hit in result.hits]


def _hit(entry: ShelvedGallery, hit: Hit | FusedHit) -> dict[str, Any]:
    record = entry.gallery.record(hit.id)
    by_captions = hit.sources.get("captions") if isinstance(hit, FusedHit) else hit
    nearest = by_captions.caption if by_captions else 0
    return {
        "rank": hit.rank,
        "id": hit.id,
        "file_name": record.file_name,
        "image": "/".join(filter(None, (server_address.get(), entry.thumbnail_url(hit.id)))),
        "license": record.license,
        "source": record.source_url,
        "confidence": record.captions[nearest].confidence,
        "unsure": UNSURE in record.captions[nearest].flags,
        "score": hit.score,
        "caption": record.captions[nearest].text,
        "more_captions": [
            caption.text for place, caption in enumerate(record.captions) if place != nearest
        ],
    }


def _fused(entry: ShelvedGallery, hit: FusedHit) -> dict[str, Any]:
    ranks = {f"{name}_rank": source.rank for name, source in hit.sources.items()}
    return {**_hit(entry, hit), **ranks}


def _timings(result: SearchResult) -> dict[str, float]:
    return {"encode": round(result.encode_ms, 3), "search": round(result.search_ms, 3)}


def _described(name: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": name,
        "images": manifest.counts.images,
        "profile": manifest.profile,
        "caption_origin": manifest.caption_origin,
        "captions_per_image": manifest.captions_per_image,
        "models": {
            "captioner": manifest.captioner.name if manifest.captioner else None,
            "sentence": manifest.sentence.name,
            "clip": manifest.clip.name,
        },
    }
