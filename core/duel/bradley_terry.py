"""How strong each contender is by the votes: a Bradley-Terry model with credible intervals.

Bradley and Terry 1952, https://doi.org/10.2307/2334029, fitted by the minorization of Hunter 2004.
A draw is half a win for each. Every pair begins with one vote, a third of it for either side and
for a draw, so that a contender that never lost stays finite. The intervals are of the model fitted
to samples of the outcomes' posterior (a Bayesian bootstrap, Rubin 1981): after a vote or two they
say that nearly nothing is known, where resampled votes of one mind would all be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.duel.votes import CONTENDERS, OTHER, Choice, Contender
from core.search.query_kinds import QUERY_KINDS

_STEPS = 100
_SAMPLES = 1_000
_SEED = 0
_PRIOR = 1 / 3
"""Votes for each of the three outcomes of a pair before anybody voted."""
_BOUNDS = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Strength:
    """One contender.

    Attributes:
        contender: Which.
        wins: Share of duels that it wins against the others, a draw being half a win, in [0, 1].
        low: Lower bound of the 95 % credible interval.
        high: Upper bound.
    """

    contender: Contender
    wins: float
    low: float
    high: float


def strengths(
    counts: Mapping[tuple[str, Contender, Contender, Choice], int],
    kind: str | None = None,
) -> tuple[tuple[Strength, ...], int]:
    """Fit the strengths to counted votes.

    Args:
        counts: From :meth:`core.duel.votes.Votes.counts`.
        kind: Only votes on queries of this kind; None for all.

    Returns:
        The strongest first, and the number of votes.
    """
    size = len(CONTENDERS)
    # For each pair i < j: wins of i, wins of j, draws.
    found = {(i, j): np.zeros(3, np.int64) for i in range(size) for j in range(i + 1, size)}
    for (asked, first, second, choice), count in counts.items():
        if kind is not None and asked != kind:
            continue
        i, j = CONTENDERS.index(first), CONTENDERS.index(second)
        outcome = {"first": 0, "second": 1}.get(choice, 2)
        if i > j:
            i, j, outcome = j, i, (1, 0, 2)[outcome]
        found[i, j][outcome] += count
    dice = np.random.default_rng(_SEED)
    wins = np.zeros((1 + _SAMPLES, size, size))
    for (i, j), outcomes in found.items():
        prior = outcomes + _PRIOR
        votes = prior.sum()
        every = np.vstack([prior, votes * dice.dirichlet(prior, _SAMPLES)])
        wins[:, i, j] = every[:, 0] + every[:, 2] / 2
        wins[:, j, i] = every[:, 1] + every[:, 2] / 2
    shares = _win_shares(_fitted(wins))
    low, high = np.percentile(shares[1:], _BOUNDS, axis=0)
    ranked = sorted(range(size), key=lambda place: -shares[0, place])
    best = tuple(
        Strength(CONTENDERS[i], float(shares[0, i]), float(low[i]), float(high[i])) for i in ranked
    )
    return best, int(sum(outcomes.sum() for outcomes in found.values()))


def by_kind(
    counts: Mapping[tuple[str, Contender, Contender, Choice], int], least: int
) -> dict[str, tuple[tuple[Strength, ...], int]]:
    """Return the strengths for each kind of query that has so many votes."""
    fitted = {kind: strengths(counts, kind) for kind in (*QUERY_KINDS, OTHER)}
    return {kind: (best, votes) for kind, (best, votes) in fitted.items() if votes >= least}


def _fitted(wins: np.ndarray) -> np.ndarray:
    """Return strengths (samples, contenders) that add up to 1, from wins (samples, i over j)."""
    games = wins + wins.swapaxes(1, 2)
    won = wins.sum(axis=2)
    power = np.full(won.shape, 1 / won.shape[1])
    for _ in range(_STEPS):
        power = won / (games / (power[:, :, None] + power[:, None, :])).sum(axis=2)
        power /= power.sum(axis=1, keepdims=True)
    return power


def _win_shares(power: np.ndarray) -> np.ndarray:
    """Return how often each wins against the mean of the others: (samples, contenders)."""
    against = power[:, :, None] / (power[:, :, None] + power[:, None, :])
    size = power.shape[1]
    shares: np.ndarray = (against.sum(axis=2) - 0.5) / (size - 1)
    return shares
