"""Measuring a gallery: queries, rankings, metrics, intervals, tests and the report."""

__all__ = [
    "command",
    "fusion",
    "index_curve",
    "metrics",
    "qrels",
    "queries",
    "votes_command",
    "written_queries",
]
