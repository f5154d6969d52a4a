"""The fused row of the Compare tab, for every weight of the lenses that a visitor can choose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from core.records import LENSES, PLAIN_RRF, FusedHit, Fusion
from core.search.query import MAX_K
from core.search.results import Comparison
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.parts.markup import (
    BOTH_MARK,
    EYE_MARK,
    QUOTE_MARK,
    escape,
    explained,
    fusion_words,
)
from core.ui.parts.results.cards import (
    Standing,
    firsts_of_alike,
    fused_cards,
    fused_row,
)

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
"""Weights of the caption lens that a visitor can choose."""


def mixed_row(
    entry: ShelvedGallery,
    comparison: Comparison,
    standing: Standing,
    both: frozenset[str],
    start: int,
    asked: int,
) -> str:
    """Return the fused row, and what moves the weight of the lenses in it.

    The page gets the row for each weight, so that it changes while the visitor drags: the cards of
    all these rows once, those that are not shown in a template, and the order for each weight.

    Args:
        entry: The gallery that was searched.
        comparison: What both lenses found; a row of one lens alone is not fused.
        standing: Where each lens ranks each picture.
        both: Pictures that both lenses show.
        start: Pictures before the page.
        asked: Pictures of a row.
    """
    if len(comparison.rankings) < len(LENSES):
        return ""
    default = comparison.fusion
    rows = _rows(entry, comparison, start, asked)
    first_shown = rows[default]
    cards: dict[str, FusedHit] = {}
    for hits in (first_shown, *rows.values()):
        for hit in hits:
            cards.setdefault(hit.id, hit)
    spare = [hit for hit in cards.values() if hit.id not in {hit.id for hit in first_shown}]
    weighed = [fusion for fusion in rows if fusion.family == "sum"]
    at = weighed.index(default) if default in weighed else len(weighed) // 2
    with_text = bool(comparison.text)
    mix = {
        "weights": [_mix_stop(fusion, rows[fusion], with_text) for fusion in weighed],
        "rank": _mix_stop(PLAIN_RRF, rows[PLAIN_RRF], with_text),
    }
    by_rank = " checked" if default.family == "rrf" else ""
    words = fusion_words(default, with_text=with_text)
    return (
        f'<section class="tl-lens both wide" aria-label="Best of both">'
        f'<header class="tl-lens-head"><h2>{BOTH_MARK}Best of both '
        f'<small class="tl-mix-how">{explained(words.short, words.long)}</small></h2>'
        f'<div class="tl-mix" data-first="{start + 1}"{" data-text" if with_text else ""} '
        f'data-sum="{weighed[0].kind}" data-mix="{escape(json.dumps(mix, ensure_ascii=False))}">'
        f'<label class="tl-mix-weight"><span class="captions">{QUOTE_MARK}captions</span>'
        f'<input type="range" min="0" max="{len(weighed) - 1}" step="1" value="{at}" '
        f'aria-label="From captions alone to CLIP alone" aria-valuetext="{escape(words.short)}">'
        f'<span class="clip">{EYE_MARK}CLIP</span></label>'
        f'<label class="tl-mix-rank"><input type="checkbox"{by_rank}> by rank (RRF)</label>'
        f"</div></header>{fused_row(entry, first_shown, standing, both)}</section>"
        f"<template class='tl-mix-spare'>{''.join(fused_cards(entry, spare, standing, both))}"
        "</template>"
    )


def _rows(
    entry: ShelvedGallery, comparison: Comparison, start: int, asked: int
) -> dict[Fusion, tuple[FusedHit, ...]]:
    """Return the fused row by rank and for each weight, from captions alone to CLIP alone.

    Of pictures that are nearly the same a row has the first.
    """
    default = comparison.fusion
    weights = {*WEIGHTS, default.weight} if default.family == "sum" else {*WEIGHTS}
    kind = default.kind if default.family == "sum" else "zscore"
    sums = [Fusion(kind, weight) for weight in sorted(weights, reverse=True)]
    fusions = list(dict.fromkeys([PLAIN_RRF, *sums, default]))
    if default.family == "sum":
        fusions = [default if fusion == default else fusion for fusion in fusions]
    deep = entry.service.fuse_again(comparison, fusions, min(2 * asked, MAX_K), start)
    pictures = list(dict.fromkeys(hit.id for hits in deep for hit in hits))
    distinct = len(set(firsts_of_alike(entry, pictures).values())) == len(pictures)
    rows = deep if distinct else [_first_of_alike(entry, hits, start) for hits in deep]
    return {fusion: hits[:asked] for fusion, hits in zip(fusions, rows, strict=True)}


def _first_of_alike(
    entry: ShelvedGallery, hits: Sequence[FusedHit], start: int
) -> tuple[FusedHit, ...]:
    firsts = firsts_of_alike(entry, [hit.id for hit in hits])
    kept = [hit for hit in hits if firsts[hit.id] == hit.id]
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate(kept, start + 1))


def _mix_stop(fusion: Fusion, hits: Sequence[FusedHit], with_text: bool) -> dict[str, object]:
    words = fusion_words(fusion, with_text=with_text)
    return {
        "weight": fusion.weight,
        "short": words.short,
        "long": words.long,
        "ids": [hit.id for hit in hits],
    }
