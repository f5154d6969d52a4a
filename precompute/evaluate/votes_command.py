"""The command ``votes``: what the votes of blind duels add up to, and the votes as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    file: Annotated[Path, typer.Argument(help="SQLite file of the votes.", exists=True)],
    out: Annotated[Path | None, typer.Option(help="CSV file to write every vote to.")] = None,
    least: Annotated[int, typer.Option(min=1, help="Fewest votes of a kind that is shown.")] = 20,
) -> None:
    """Rank the lenses and their fusion by visitors' votes, in all and by kind of query.

    Duels won of 100, a draw being half a win, by a Bradley-Terry model; in brackets a 95 %
    credible interval.
    """
    import csv
    import io
    from dataclasses import asdict

    from core.duel.bradley_terry import by_kind, strengths
    from core.duel.votes import Votes
    from core.files import write_atomically

    votes = Votes(file)
    counts = votes.counts()
    tables = [("all", *strengths(counts))]
    tables += [(kind, *found) for kind, found in by_kind(counts, least).items()]
    for name, ranked, number in tables:
        typer.echo(f"{name}: {number:,} votes")
        for each in ranked:
            interval = f"({100 * each.low:.1f} to {100 * each.high:.1f})"
            typer.echo(f"  {each.contender:<9} {100 * each.wins:5.1f} {interval}")
    if out is not None:
        text = io.StringIO()
        table = csv.DictWriter(text, ("gallery", "query", "kind", "first", "second", "choice"))
        table.writeheader()
        table.writerows({**asdict(vote), "kind": vote.kind} for vote in votes.all())
        write_atomically(out, text.getvalue().encode())
    votes.close()
