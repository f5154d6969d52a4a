"""A third lens, off unless somebody asks for it: BM25 over the words of all captions."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from core.records import Hit, values_of
from core.search.bm25.word_index import WordIndex
from core.search.query_language.filters import Columns, allowed_rows
from core.search.query_language.parse import ParsedQuery


@dataclass(frozen=True, slots=True)
class WordsFound:
    """What the words of captions find.

    Attributes:
        hits: Best first; pictures whose captions share a word with the query, and no others.
        search_ms: Milliseconds, without the index's making.
    """

    hits: tuple[Hit, ...]
    search_ms: float


def words_in_captions(pictures: Columns, query: ParsedQuery, k: int) -> WordsFound:
    """Rank pictures by BM25 over their captions, whose index the first call makes.

    Args:
        pictures: The gallery, or an upload.
        query: Its words, weights and filters count; pictures in it do not.
        k: Hits wanted.

    Raises:
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    index, ids = pictures.column("words in captions", lambda: _made(pictures))
    started = time.perf_counter()
    hits = index.search(query, ids, k, allowed_rows(pictures, query.filters))
    return WordsFound(tuple(hits), (time.perf_counter() - started) * 1000)


def _made(pictures: Columns) -> tuple[WordIndex, np.ndarray]:
    records = pictures.records
    texts = [
        " ".join((first, *(caption.text for caption in more)))
        for first, more in zip(
            values_of(records, "caption"), values_of(records, "more_captions"), strict=True
        )
    ]
    return WordIndex(texts), np.array(values_of(records, "id"), np.str_)
