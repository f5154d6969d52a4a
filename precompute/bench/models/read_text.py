"""The reader of text in pictures: seconds a picture, and which of its lines are worth keeping."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config import Settings
from core.images.decode import DecodeLimits, decode
from core.models.text_reader import TextReader, joined
from core.records import ImageRecord
from core.search.bm25.picture_text import TextIndex
from core.search.bm25.word_index import WordIndex
from core.search.query_language.parse import parse_query
from precompute.bench.shared.figures import Figure, Say, result
from precompute.evaluate.qrels import from_trec

if TYPE_CHECKING:
    from core.models.text_reader import Line

_THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)


def read_text(
    source: Path, qrels: Path, queries: Path, settings: Settings, say: Say
) -> dict[str, Any]:
    """Read a folder of photos, and find those that queries about their text mean.

    Args:
        source: The photos.
        qrels: TREC labels, see :func:`precompute.evaluate.qrels.from_trec`.
        queries: Their texts.
        settings: Limits of decoding.
        say: Told what goes on.

    Raises:
        SourceError: The labels do not fit the photos.
        MissingDependencyError: The reader is not installed.
    """
    reader, limits = TextReader(), DecodeLimits.of(settings)
    records: list[ImageRecord] = []
    lines: list[list[Line]] = []
    took: list[float] = []
    cpu: list[float] = []
    for path in sorted(source.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        decoded = decode(path.read_bytes(), path.name, limits)
        started, worked = time.perf_counter(), time.process_time()
        lines.append(reader.lines(decoded.image))
        took.append(time.perf_counter() - started)
        cpu.append(time.process_time() - worked)
        records.append(
            ImageRecord(decoded.id, path.name, decoded.sha256, decoded.width, decoded.height, "")
        )
        if len(records) % 20 == 0:
            say(f"{len(records)} photos ...")
    asked = from_trec(qrels, queries, records).queries
    wanted = [{records[row].id for row in query.relevant} for query in asked]
    # The first loads the reader. On a busy machine the CPU's seconds say more.
    figures = [
        Figure("reading a picture, mean", float(np.mean(took[1:] or took)), "s", len(took)),
        Figure("reading a picture, mean, CPU", float(np.mean(cpu[1:] or cpu)), "s", len(took)),
    ]
    for least in _THRESHOLDS:
        texts = {
            record.id: text
            for record, found in zip(records, lines, strict=True)
            if (text := joined(found, least).text)
        }
        runs, words = TextIndex(texts), WordIndex(tuple(texts.values()))
        by_runs, by_words = [], []
        for query, own in zip(asked, wanted, strict=True):
            parsed = parse_query(query.text)
            by_runs.append(_reciprocal([hit.hit.id for hit in runs.search(parsed, 20)], own))
            found = words.search(parsed, tuple(texts), 20)
            by_words.append(_reciprocal([hit.id for hit in found], own))
        for name, ranks in (("runs of letters", by_runs), ("whole words", by_words)):
            value = float(np.mean(ranks))
            figures.append(Figure(f"MRR, {name}, lines from {least}", value, "", len(asked)))
    return result(figures, "any", source=source.name)


def _reciprocal(ranked: list[str], wanted: set[str]) -> float:
    return next((1 / rank for rank, each in enumerate(ranked, 1) if each in wanted), 0.0)
