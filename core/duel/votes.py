"""Votes on disk, in SQLite: one that was acknowledged survives whatever happens to the process."""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from core.errors import VoteError
from core.search.query_kinds import kinds_of

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler

Contender = Literal["captions", "clip", "fused"]
"""A lens, or both joined."""

CONTENDERS: tuple[Contender, ...] = get_args(Contender)

Choice = Literal["first", "second", "both", "neither"]
"""Which of the two rows was better; ``both`` and ``neither`` are draws."""

OTHER = "other"
"""Queries of no known kind."""

MOST_A_DAY = 300
"""Votes of one visitor that count in a day."""

_SCHEMA = """
create table if not exists votes (
    id integer primary key,
    day text not null,
    gallery text not null,
    query text not null,
    kind text not null,
    first text not null,
    second text not null,
    choice text not null,
    pair text not null,
    voter text not null,
    unique (voter, gallery, query, pair)
)
"""
_MINUTES_APART = 5.0
_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote, without a trace of who gave it.

    Attributes:
        gallery: Name of the gallery.
        query: What was asked.
        first: Whose row stood first.
        second: Whose row stood second.
        choice: Which was better.
    """

    gallery: str
    query: str
    first: Contender
    second: Contender
    choice: Choice

    @property
    def kind(self) -> str:
        """What kind of query it was: the first that it is of, or ``other``."""
        return next(iter(kinds_of(self.query)), OTHER)


class Votes:
    """All votes of one app. Safe for many threads, and for many processes on one file.

    Who voted is known by a digest of a random session id and a secret that is forgotten when the
    process ends: it tells one visitor's votes apart from another's, and no more.

    Args:
        path: The file; made if it is not there.
        mirror: Copies each vote to the Hub, see :func:`mirror_to`; None for no copy.

    Raises:
        VoteError: The file cannot be opened, or is no file of votes.
    """

    def __init__(self, path: Path, mirror: CommitScheduler | None = None) -> None:
        """Open the file."""
        self._mirror = mirror
        self._secret = secrets.token_bytes(16)
        # A file for each run: where the disk does not outlive a run, the next one replaces none.
        self._copy_name = f"{path.stem}-{secrets.token_hex(6)}.jsonl"
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
            with self._file:
                self._file.execute("pragma journal_mode = wal")
                # An acknowledged vote is on the disk, not on its way there.
                self._file.execute("pragma synchronous = full")
                self._file.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise VoteError(f"The votes in {path} cannot be opened ({error}).") from error

    def add(self, vote: Vote, session: str) -> bool:
        """Store a vote; when this returns, it is on the disk.

        Args:
            vote: The vote.
            session: A random name of the visitor's session.

        Returns:
            Whether it counts: a visitor's second vote on the same pair and query does not.

        Raises:
            VoteError: The visitor has voted too often today, or the file cannot be written.
        """
        day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        voter = hashlib.sha256(self._secret + session.encode()).hexdigest()[:16]
        row = (
            *(day, vote.gallery, vote.query, vote.kind, vote.first, vote.second, vote.choice),
            *(" ".join(sorted((vote.first, vote.second))), voter),
        )
        try:
            with self._lock, self._file:
                (today,) = self._file.execute(
                    "select count(*) from votes where voter = ? and day = ?", (voter, day)
                ).fetchone()
                if today >= MOST_A_DAY:
                    raise VoteError(f"A visitor has {MOST_A_DAY} votes a day. Come back tomorrow!")
                found = self._file.execute(
                    "insert or ignore into votes (day, gallery, query, kind, first, second, "
                    "choice, pair, voter) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
        except sqlite3.Error as error:
            raise VoteError("The vote could not be stored. Please try again.") from error
        counts = found.rowcount == 1
        if counts and self._mirror is not None:
            self._copy(vote, day)
        return counts

    def _copy(self, vote: Vote, day: str) -> None:
        if self._mirror is None:
            return
        line = json.dumps({"day": day, **asdict(vote), "kind": vote.kind}, ensure_ascii=False)
        with self._mirror.lock:
            path = Path(self._mirror.folder_path) / self._copy_name
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def all(self) -> Iterator[Vote]:
        """Yield every vote, oldest first."""
        with self._lock:
            rows = self._file.execute(
                "select gallery, query, first, second, choice from votes order by id"
            ).fetchall()
        for row in rows:
            yield Vote(*row)

    def counts(self) -> dict[tuple[str, Contender, Contender, Choice], int]:
        """Return how many votes there are by kind of query, both contenders and choice."""
        with self._lock:
            rows = self._file.execute(
                "select kind, first, second, choice, count(*) from votes "
                "group by kind, first, second, choice"
            ).fetchall()
        return {(kind, first, second, choice): count for kind, first, second, choice, count in rows}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def mirror_to(repository: str, folder: Path) -> CommitScheduler:
    """Return what copies votes to a dataset repository of the Hub, every few minutes.

    Args:
        repository: OWNER/NAME; made, private, if it is not there.
        folder: Where lines wait until they are sent.
    """
    from huggingface_hub import CommitScheduler

    folder.mkdir(parents=True, exist_ok=True)
    return CommitScheduler(
        repo_id=repository,
        repo_type="dataset",
        folder_path=folder,
        path_in_repo="votes",
        every=_MINUTES_APART,
        private=True,
        squash_history=False,
    )
