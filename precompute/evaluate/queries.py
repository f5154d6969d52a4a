"""The queries of a gallery, embedded and ready to be scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from core.gallery.reader import Gallery
from core.models.clip.hubs import correction, text_bank
from core.records import CaptionPooling, Lens
from precompute.evaluate.qrels import QuerySet
from precompute.evaluate.rankings import Relevant, Scorer, best_scorer, dense_scorer

if TYPE_CHECKING:
    from core.models.profiles import Models


@dataclass(frozen=True)
class AskedQueries:
    """The queries put to one gallery.

    Attributes:
        gallery: What is searched.
        queries: What is asked, and what is relevant.
        embedded: float32 (queries, dim) by lens, rows of unit norm.
        owed: What each picture's CLIP score owes to being a hub, float32 (n,); None where the
            CLIP model has no bank of texts that would tell.
    """

    gallery: Gallery
    queries: QuerySet
    embedded: dict[Lens, np.ndarray]
    owed: np.ndarray | None = None

    @classmethod
    def embed(cls, gallery: Gallery, queries: QuerySet, models: Models) -> AskedQueries:
        """Embed every distinct query once, in batches, with both lenses' text encoders."""
        texts = [query.text for query in queries.queries]
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        clip = models.profile.clip
        distinct, rows = list(row_of), np.array([row_of[text] for text in texts])
        return cls(
            gallery,
            queries,
            {
                "captions": models.sentence.encode_text(distinct)[rows],
                "clip": models.clip.encode_text(distinct)[rows],
            },
            correction(gallery.embeddings("clip"), clip) if text_bank(clip) is not None else None,
        )

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.queries.queries)

    @cached_property
    def relevant(self) -> Relevant:
        """Which pictures are relevant, as flat arrays."""
        return Relevant.of([query.relevant for query in self.queries.queries])

    @cached_property
    def clusters(self) -> np.ndarray:
        """Which queries are about the same picture: int (queries,)."""
        return np.array([query.cluster for query in self.queries.queries])

    def scorer(self, lens: Lens) -> Scorer:
        """Score by one lens's embeddings, as the gallery ranks them, exactly: no index is used."""
        if lens == "captions":
            return self.caption_scorer(self.gallery.manifest.caption_pooling)
        return dense_scorer(self.embedded[lens], self.gallery.embeddings(lens))

    def corrected_scorer(self) -> Scorer:
        """Score by CLIP, less what each picture owes to being a hub."""
        plain, owed = self.scorer("clip"), self.owed
        return lambda block: plain(block) - (0.0 if owed is None else owed)

    def caption_scorer(self, way: CaptionPooling | Literal["first"]) -> Scorer:
        """Score by captions: their mean, the best one, or each picture's first one alone."""
        queries, gallery = self.embedded["captions"], self.gallery
        first = gallery.caption_rows.first
        if way == "best" and not gallery.caption_rows.single:
            return best_scorer(queries, gallery.caption_embeddings, first)
        if way == "first":
            return dense_scorer(queries, gallery.caption_embeddings[first[:-1]])
        return dense_scorer(queries, gallery.embeddings("captions"))

    def nearest_caption(self, query: int, image: int) -> str:
        """Return what the captioner says of a picture; of several captions the nearest one."""
        record = self.gallery.records[image]
        embedded = self.embedded["captions"][query]
        (place,) = self.gallery.nearest_captions([record.id], embedded)
        return record.captions[place].text

    def only(self, rows: np.ndarray) -> AskedQueries:
        """Return the queries of some rows, in the order of ``rows``: int (n,)."""
        queries = replace(
            self.queries, queries=tuple(self.queries.queries[row] for row in rows.tolist())
        )
        return replace(
            self,
            queries=queries,
            embedded={lens: each[rows] for lens, each in self.embedded.items()},
        )
