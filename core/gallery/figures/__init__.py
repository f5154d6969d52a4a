"""The figures of a gallery: what its ``metrics.json`` holds, and the charts of it."""

__all__ = ["metrics_charts", "metrics_file", "written_kinds"]
