"""BM25 over short texts: pictures ranked by the words that they share with a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from core.errors import MissingDependencyError
from core.records import Hit
from core.search.query_language.parse import ParsedQuery


class WordIndex:
    """Ranks one text a picture by BM25: English stop words dropped, words stemmed.

    A score has no upper bound and is 0 without a shared word. Safe for many threads.

    Args:
        texts: One a picture, in row order; may be empty.
        tokens: What counts as a word of each of some texts; None for stems of English.

    Raises:
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokens: Callable[[Sequence[str]], list[list[str]]] | None = None,
    ) -> None:
        """Index the texts: some 30 microseconds each."""
        self.size = len(texts)
        self._tokens = tokens or _stems
        corpus = self._tokens(texts)
        self._rows: dict[str, int] = {}
        self._parts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if not any(corpus):  # bm25s cannot index a corpus without a word
            return
        import bm25s

        index = bm25s.BM25()
        index.index(corpus, show_progress=False)
        self._rows = {word: row for word, row in index.vocab_dict.items() if word}
        data, indices, starts = (index.scores[name] for name in ("data", "indices", "indptr"))
        self._parts = data, indices, starts

    def scores(self, words: str) -> np.ndarray:
        """Return the score of each picture for some words: float32 (n,)."""
        found = np.zeros(self.size, dtype=np.float32)
        if self._parts is None:
            return found
        data, indices, starts = self._parts
        for token in self._tokens([words])[0]:
            row = self._rows.get(token)
            if row is not None:
                place = slice(starts[row], starts[row + 1])
                found[indices[place]] += data[place]  # a text stands once in a word's list
        return found

    def search(
        self,
        query: ParsedQuery,
        ids: Sequence[str] | np.ndarray,
        k: int,
        among: np.ndarray | None = None,
    ) -> list[Hit]:
        """Rank the pictures that share a word with a query, best first; ties in row order.

        Args:
            query: Its words are weighed and subtracted as its parts say; pictures in it have none.
            ids: Of the pictures, in row order.
            k: Hits wanted.
            among: Which pictures may be found: bool (n,); None allows all.
        """
        total = np.zeros(self.size, dtype=np.float32)
        for part in query.parts:
            if part.text:
                total += np.float32(part.weight) * self.scores(part.text)
        if among is not None:
            total[~among] = 0
        order = np.argsort(-total, kind="stable")[:k]
        return [
            Hit(id=str(ids[row]), score=float(total[row]), rank=rank)
            for rank, row in enumerate(order, start=1)
            if total[row] > 0
        ]


def _stems(texts: Sequence[str]) -> list[list[str]]:
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise MissingDependencyError("bm25s PyStemmer", "The search by words (BM25)") from error
    found: list[list[str]] = bm25s.tokenize(
        list(texts),
        stopwords="en",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )
    return found
