"""Which pictures are relevant to which query: from references, TREC files or human judgements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError
from core.records import ImageRecord
from core.text import composed, has_content, one_line

SOLVED_RANK = 5
"""A query is solved by a lens that has a right picture among its first five."""

EXPERTS_FILE = "ExpertAnnotations.txt"
CROWD_FILE = "CrowdFlowerAnnotations.txt"
TOKENS_FILE = "Flickr8k.token.txt"

_POOL_NOTE = (
    "The judged pool is incomplete: pictures that nobody judged count as wrong, so every figure "
    "is a lower bound, and more so for a lens that finds pictures the pool never held."
)


@dataclass(frozen=True, slots=True)
class Query:
    """One query and what answers it.

    Attributes:
        id: Unique in its set.
        text: What is searched for.
        relevant: Grade, 1 or more, by row of the picture in the gallery; empty only for a text of
            which no rank is measured.
        cluster: Queries of one cluster are not independent: the row of the picture they describe,
            or a number below 0 of their own.
    """

    id: str
    text: str
    relevant: Mapping[int, int]
    cluster: int


@dataclass(frozen=True, slots=True)
class QuerySet:
    """The queries of one evaluation.

    Attributes:
        queries: One or more.
        origin: Where they come from, in words.
        notes: What a reader must know of them.
    """

    queries: tuple[Query, ...]
    origin: str
    notes: tuple[str, ...] = ()

    @property
    def several_relevant(self) -> bool:
        """Whether any query has more than one relevant picture."""
        return any(len(query.relevant) > 1 for query in self.queries)


def from_references(records: Sequence[ImageRecord], *, captions_given: bool) -> QuerySet:
    """Make every reference caption a query whose one relevant picture is its own.

    Args:
        records: The pictures, in row order.
        captions_given: Whether the indexed captions came with the source. A reference that is
            itself indexed would find its picture by being the same text; it is left out.

    Raises:
        SourceError: No picture has a reference that can be asked, or one is not text.
    """
    queries: list[Query] = []
    same = 0
    for row, record in enumerate(records):
        for number, text in enumerate(_lines(record)):
            if captions_given and text.strip() == record.caption.strip():
                same += 1
                continue
            queries.append(Query(f"{record.id}#{number}", text, {row: 1}, row))
    if not queries:
        raise SourceError(
            "This gallery has no reference captions to ask for. Build it from a source with a "
            "caption column (--caption-column), or give --qrels and --queries."
        )
    notes = [
        "Each reference caption has one relevant picture here, its own, though it may describe "
        "others as well; mAP then equals MRR and is not listed."
    ]
    if same:
        notes.append(
            f"The indexed captions came with the source; {same} queries that are such a caption "
            "were left out, and those that remain were written about the same picture by other "
            "people: this measures people's captions, not a captioner."
        )
    return QuerySet(tuple(queries), "reference captions", tuple(notes))


def _lines(record: ImageRecord) -> list[str]:
    """Return a picture's references; a source may keep all of them in one text, one a line."""
    found = []
    for text in record.references:
        if not isinstance(text, str):
            raise SourceError(
                f"The references of {record.file_name[:80]} are not text but {type(text).__name__}."
            )
        lines = (one_line(line) for line in text.splitlines())
        found += [line for line in lines if has_content(line)]
    return found


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a line of qrels says.

    Attributes:
        query_id: Of which query.
        picture: Id or file name.
        grade: Relevant from 1; 0 or less is judged and wrong.
    """

    query_id: str
    picture: str
    grade: int


def read_trec(qrels: Path, queries: Path) -> tuple[dict[str, str], list[Judgement]]:
    """Read TREC qrels (``QUERY 0 PICTURE GRADE``) and queries (``QUERY<tab>TEXT``).

    Returns:
        Text by query id, and the judgements, both in file order.

    Raises:
        SourceError: A file cannot be read, a line is malformed, a query is unknown, or an id comes
            twice.
    """
    texts: dict[str, str] = {}
    for number, line in _numbered(queries):
        query_id, tab, text = line.partition("\t")
        text = one_line(text)
        if not tab or not query_id.strip() or not has_content(text):
            raise SourceError(f"Line {number} of {queries.name} is not QUERY<tab>TEXT.")
        if query_id.strip() in texts:
            raise SourceError(
                f"The query id {query_id.strip()[:40]!r} comes twice in {queries.name}."
            )
        texts[query_id.strip()] = text
    judgements = []
    for number, line in _numbered(qrels):
        parts = line.split()
        if len(parts) != 4 or not parts[3].lstrip("-").isdecimal():
            raise SourceError(f"Line {number} of {qrels.name} is not QUERY 0 PICTURE GRADE.")
        query_id, _, name, grade = parts
        if query_id not in texts:
            raise SourceError(
                f"{qrels.name} names the query {query_id[:40]!r}, which {queries.name} lacks."
            )
        judgements.append(Judgement(query_id, name, int(grade)))
    return texts, judgements


def from_trec(qrels: Path, queries: Path, records: Sequence[ImageRecord]) -> QuerySet:
    """Make a set of what :func:`read_trec` reads.

    Raises:
        SourceError: As there; or a picture is unknown or judged twice for a query, or nothing is
            relevant.
    """
    texts, judgements = read_trec(qrels, queries)
    rows = rows_by_name(records)
    relevant: dict[str, dict[int, int]] = defaultdict(dict)
    judged: set[tuple[str, int]] = set()
    for each in judgements:
        row = _row(rows, each.picture, qrels)
        if (each.query_id, row) in judged:
            raise SourceError(
                f"{qrels.name} judges the picture {each.picture[:80]!r} twice for the query "
                f"{each.query_id[:40]!r}."
            )
        judged.add((each.query_id, row))
        if each.grade > 0:
            relevant[each.query_id][row] = each.grade
    return _query_set(texts, relevant, {}, f"qrels {qrels.name}")


def from_flickr8k_judgements(folder: Path, records: Sequence[ImageRecord]) -> QuerySet:
    """Read the human judgements that come with Flickr8k (Hodosh, Young and Hockenmaier 2013).

    A picture is relevant to a caption if more than half of the crowd said yes, if the experts'
    mean is 3 or more (of 4), or if it is the picture the caption was written about.

    Args:
        folder: Holds ``ExpertAnnotations.txt`` (picture, caption id, three grades from 1 to 4),
            ``CrowdFlowerAnnotations.txt`` (picture, caption id, share of yes, yes, no), or both,
            and ``Flickr8k.token.txt`` (caption id, text). Without the last, caption ``NAME#i``
            is the i-th reference of the picture NAME.
        records: The pictures, in row order, with the file names of Flickr8k.

    Raises:
        SourceError: No file of judgements, a malformed line, an unknown picture or caption.
    """
    rows = rows_by_name(records)
    relevant: dict[str, dict[int, int]] = defaultdict(dict)
    own: dict[str, int] = {}
    read = []
    for path, is_relevant in (
        (folder / EXPERTS_FILE, _experts_say_yes),
        (folder / CROWD_FILE, _crowd_says_yes),
    ):
        if not path.is_file():
            continue
        read.append(path.name)
        for number, line in _numbered(path):
            parts = line.split("\t")
            try:
                name, caption_id, verdict = parts[0], parts[1], is_relevant(parts[2:])
            except (IndexError, ValueError):
                raise SourceError(
                    f"Line {number} of {path.name} is not a judgement of Flickr8k."
                ) from None
            own[caption_id] = _row(rows, caption_id.rpartition("#")[0], path)
            row = _row(rows, name, path)
            if verdict:
                relevant[caption_id][row] = 1
    if not read:
        raise SourceError(f"There is neither {EXPERTS_FILE} nor {CROWD_FILE} in {folder.name}.")
    for caption_id, row in own.items():
        relevant[caption_id][row] = 1
    tokens = folder / TOKENS_FILE
    if tokens.is_file():
        named = (line.partition("\t") for _, line in _numbered(tokens))
        texts = {name: one_line(text) for name, tab, text in named if tab}
    else:
        texts = {
            f"{record.file_name.rpartition('/')[2]}#{number}": text
            for record in records
            for number, text in enumerate(_lines(record))
        }
    missing = next((caption_id for caption_id in own if caption_id not in texts), None)
    if missing is not None:
        raise SourceError(
            f"The caption {missing[:80]!r} is judged, but {TOKENS_FILE} is missing or lacks it."
        )
    return _query_set(
        {caption_id: texts[caption_id] for caption_id in own},
        relevant,
        own,
        f"human judgements ({', '.join(read)})",
    )


def _experts_say_yes(values: Sequence[str]) -> bool:
    grades = [int(value) for value in values]
    if len(grades) != 3 or not all(1 <= grade <= 4 for grade in grades):
        raise ValueError(grades)
    return sum(grades) / 3 >= 3


def _crowd_says_yes(values: Sequence[str]) -> bool:
    share, yes, no = values
    if not 0 <= float(share) <= 1 or int(yes) < 0 or int(no) < 0:
        raise ValueError(values)
    return float(share) > 0.5


def _query_set(
    texts: Mapping[str, str],
    relevant: Mapping[str, Mapping[int, int]],
    own: Mapping[str, int],
    origin: str,
) -> QuerySet:
    queries = tuple(
        Query(query_id, text, relevant[query_id], own.get(query_id, -1 - number))
        for number, (query_id, text) in enumerate(texts.items())
        if relevant.get(query_id)
    )
    if not queries:
        raise SourceError(f"No picture of the gallery is relevant to any query of the {origin}.")
    notes = [_POOL_NOTE]
    if len(queries) < len(texts):
        notes.append(
            f"{len(texts) - len(queries)} queries without a relevant picture were left out."
        )
    return QuerySet(queries, origin, tuple(notes))


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        raise SourceError(f"{path.name} cannot be read as text.") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line


def rows_by_name(records: Iterable[ImageRecord]) -> dict[str, int]:
    """Map ids, file names and file names without folders (NFC) to rows; ambiguous ones to -1."""
    rows: dict[str, int] = {}
    for row, record in enumerate(records):
        for name in {record.id, *map(composed, _names(record))}:
            rows[name] = row if rows.get(name, row) == row else -1
    return rows


def _names(record: ImageRecord) -> tuple[str, str]:
    return record.file_name, record.file_name.rpartition("/")[2]


def _row(rows: Mapping[str, int], name: str, file: Path) -> int:
    row = rows.get(composed(name))
    if row is None:
        raise SourceError(f"{file.name} names the picture {name[:80]!r}, which the gallery lacks.")
    if row < 0:
        raise SourceError(
            f"{file.name} names the picture {name[:80]!r}, of which the gallery has several."
        )
    return row
