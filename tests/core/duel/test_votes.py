"""No vote that was acknowledged is lost, none counts twice, and strengths are what was planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import core
from core.duel import votes as store
from core.duel.bradley_terry import by_kind, strengths
from core.duel.votes import CONTENDERS, Vote, Votes
from core.errors import VoteError
from tests.local_hub import local_hub

ROOT = Path(core.__file__).resolve().parents[1]


def vote(query: str = "a dog", choice: str = "first") -> Vote:
    return Vote("g", query, "clip", "captions", choice)


def test_twenty_visitors_at_once_lose_no_vote(tmp_path):
    votes = Votes(tmp_path / "v" / "votes.sqlite")

    def visitor(number: int) -> int:
        return sum(votes.add(vote(f"query {i}"), f"visitor {number}") for i in range(15))

    with ThreadPoolExecutor(20) as visitors:
        assert sum(visitors.map(visitor, range(20))) == 300
    assert len(list(votes.all())) == 300
    assert sum(votes.counts().values()) == 300


def test_a_second_vote_on_the_same_rows_does_not_count(tmp_path):
    votes = Votes(tmp_path / "votes.sqlite")
    assert votes.add(vote(), "anna")
    assert not votes.add(vote(choice="second"), "anna")
    assert not votes.add(Vote("g", "a dog", "captions", "clip", "both"), "anna")
    assert votes.add(vote(), "ben")
    assert [each.choice for each in votes.all()] == ["first", "first"]


def test_a_day_has_so_many_votes(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MOST_A_DAY", 2)
    votes = Votes(tmp_path / "votes.sqlite")
    assert votes.add(vote("a"), "anna")
    assert votes.add(vote("b"), "anna")
    with pytest.raises(VoteError, match="2 votes a day"):
        votes.add(vote("c"), "anna")
    assert votes.add(vote("c"), "ben")


def test_what_was_acknowledged_survives_sigkill(tmp_path):
    program = """
import sys
from pathlib import Path
from core.duel.votes import Vote, Votes
votes = Votes(Path(sys.argv[1]))
for number in range(100_000):
    votes.add(Vote("g", f"query {number}", "clip", "fused", "first"), f"visitor {number}")
    print(number, flush=True)
"""
    path = tmp_path / "votes.sqlite"
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for line in running.stdout:
        if int(line) >= 40:
            break
    running.send_signal(signal.SIGKILL)
    acknowledged = [int(line), *map(int, running.communicate()[0].split())]
    stored = [each.query for each in Votes(path).all()]
    assert stored[: max(acknowledged) + 1] == [f"query {n}" for n in range(max(acknowledged) + 1)]


def test_nothing_of_the_visitor_is_on_the_disk(tmp_path):
    votes = Votes(tmp_path / "votes.sqlite")
    votes.add(vote(), "session-name-of-anna")
    votes.close()
    for path in tmp_path.iterdir():
        assert b"session-name" not in path.read_bytes()


def test_a_file_of_something_else_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "votes.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(VoteError, match="cannot be opened"):
        Votes(tmp_path / "votes.sqlite")


def test_strengths_are_what_was_planted():
    """10,000 votes drawn from known strengths, sides at random."""
    power = dict(zip(CONTENDERS, (1.0, 2.0, 4.0), strict=True))
    dice = np.random.default_rng(3)
    counts: dict = {}
    for _ in range(10_000):
        first, second = dice.permutation(CONTENDERS)[:2]
        draws = dice.random() < 0.2
        wins = dice.random() < power[first] / (power[first] + power[second])
        choice = ("both" if wins else "neither") if draws else ("first" if wins else "second")
        key = ("count", str(first), str(second), choice)
        counts[key] = counts.get(key, 0) + 1
    ranked, number = strengths(counts)
    assert number == 10_000
    assert [each.contender for each in ranked] == ["fused", "clip", "captions"]
    # A draw, a fifth of the votes, is half a win.
    for each, against in zip(
        ranked, ((4 / 5 + 4 / 6), (2 / 3 + 2 / 6), (1 / 3 + 1 / 5)), strict=True
    ):
        expected = 0.8 * against / 2 + 0.2 * 0.5
        assert each.wins == pytest.approx(expected, abs=0.02)
        assert each.low < each.wins < each.high < each.low + 0.04
    assert list(by_kind(counts, least=20)) == ["count"]


def test_few_votes_leave_nearly_everything_open():
    widths = []
    for number in (0, 1, 10, 100):
        pairs = combinations(("clip", "fused", "captions"), 2)
        ranked, _ = strengths({("count", *pair, "first"): number for pair in pairs})
        clip = next(each for each in ranked if each.contender == "clip")
        assert clip.low <= clip.wins <= clip.high
        widths.append(clip.high - clip.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[1] > 0.5 and widths[3] < 0.05


def test_without_votes_all_are_equal():
    ranked, number = strengths({})
    assert number == 0
    assert [each.wins for each in ranked] == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("a dog without a leash", "negation"),
        ("two red dogs", "count"),
        ("a stop sign", "text"),
        ("a building", "other"),
    ],
)
def test_a_vote_counts_for_one_kind_of_query(query, kind):
    assert vote(query).kind == kind


def test_votes_are_copied_to_a_dataset_of_the_hub(tmp_path):
    program = """
import sys
from pathlib import Path
from core.duel.votes import Vote, Votes, mirror_to
folder = Path(sys.argv[1])
mirror = mirror_to("mine/votes", folder / "mirrored")
votes = Votes(folder / "votes.sqlite", mirror)
assert votes.add(Vote("g", "a dog", "clip", "fused", "both"), "anna")
assert not votes.add(Vote("g", "a dog", "clip", "fused", "both"), "anna")
mirror.trigger().result()
mirror.stop()
"""
    with local_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            env={**hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        repository = hub.repositories["datasets/mine/votes"]
        _, files = repository.files("main")
    (name,) = (name for name in files if name.startswith("votes/votes-"))
    (line,) = files[name].decode().splitlines()
    assert json.loads(line) == {
        **{"day": json.loads(line)["day"], "gallery": "g", "query": "a dog", "kind": "other"},
        **{"first": "clip", "second": "fused", "choice": "both"},
    }
