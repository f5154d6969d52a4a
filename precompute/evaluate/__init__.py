"""Measuring a gallery: queries, rankings, metrics, intervals, tests and the report."""

__all__ = ["command", "index_curve", "metrics", "qrels", "votes_command"]
