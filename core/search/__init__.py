"""A search: the query, the index, fusion of rankings, and the service that answers."""

__all__ = ["agreement", "edited", "explain", "fusion", "index", "ivf_file", "query", "service"]
