"""Measuring a gallery: queries, rankings, metrics, intervals, tests and the report."""
