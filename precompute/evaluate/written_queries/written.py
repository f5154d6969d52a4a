"""Queries that were written by hand for the pictures of a gallery, each of one kind.

``NAME.tsv`` and ``NAME.qrels`` beside this file are TREC files for the gallery whose source is
NAME. A query's id begins with its kind; how it is tested follows from what was judged:

- pictures of grade 1 alone: every one in the gallery that answers it;
- a picture of grade 1 and one of grade 0: alike but for what the query asks;
- a picture of grade 1, and of grade 0 for the text with ``-swapped`` behind its id: the same words,
  said of the wrong things.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path

from core.gallery.figures.written_kinds import KindTest
from core.records import ImageRecord
from core.text import composed
from precompute.evaluate.qrels import SOLVED_RANK, read_trec, rows_by_name

_SWAPPED = "-swapped"


@dataclass(frozen=True)
class WrittenQuery:
    """A query that was written to ask for one thing, and what is known of its answer.

    Attributes:
        id: Its kind, a hyphen and a number.
        text: What is searched for.
        right: Rows of the pictures that answer it; one or more.
        wrong: Row of a picture that is alike and does not, or None.
        swapped: The same words, said of the wrong things, or None.
    """

    id: str
    text: str
    right: tuple[int, ...]
    wrong: int | None = None
    swapped: str | None = None

    @property
    def kind(self) -> str:
        """What it is about."""
        return self.id.partition("-")[0]

    @cached_property
    def test(self) -> KindTest:
        """How it is tested."""
        if self.swapped is not None:
            return "two_texts"
        return "first_five" if self.wrong is None else "two_pictures"

    def chance(self, images: int) -> float:
        """Return how often an order or a choice at random is right, among so many pictures."""
        if self.test != "first_five":
            return 0.5
        return 1 - comb(images - len(self.right), SOLVED_RANK) / comb(
            images, min(SOLVED_RANK, images)
        )


def written_queries(
    source: str, records: Sequence[ImageRecord], folder: Path | None = None
) -> tuple[WrittenQuery, ...]:
    """Return what was written for the pictures of a source, as far as they are in the gallery.

    Args:
        source: Name of what the gallery was built from.
        records: Its pictures, in row order.
        folder: Where the files are; None for those of the repository.

    Raises:
        SourceError: A file is damaged.
    """
    files = _files(source, folder)
    if files is None:
        return ()
    texts, judgements = read_trec(*files)
    rows = rows_by_name(records)
    judged: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for each in judgements:
        row = rows.get(composed(each.picture), -1)
        if row >= 0:
            judged[each.query_id, each.grade > 0].append(row)
    named = {each.query_id for each in judgements if each.grade <= 0}
    found = []
    for query_id, text in texts.items():
        right, wrong = judged[query_id, True], judged[query_id, False]
        if right and (wrong or query_id not in named):
            swapped = texts.get(f"{query_id}{_SWAPPED}")
            found.append(
                WrittenQuery(query_id, text, tuple(right), wrong[0] if wrong else None, swapped)
            )
    return tuple(found)


def written_sha256(source: str) -> str:
    """Return a hash of what was written for the pictures of a source; "" if nothing was."""
    files = _files(source)
    if files is None:
        return ""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _files(source: str, folder: Path | None = None) -> tuple[Path, Path] | None:
    """Return the qrels and the queries of a source; its name may be anybody's."""
    folder = folder or Path(__file__).parent
    found = {path.stem: path for path in folder.glob("*.qrels")}.get(source)
    return None if found is None else (found, found.with_suffix(".tsv"))
