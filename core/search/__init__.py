"""A search: the query, the index, fusion of rankings, and the service that answers."""

__all__ = [
    "agreement",
    "explain",
    "fusion",
    "index",
    "ivf_file",
    "places",
    "query",
    "query_kinds",
    "service",
    "word_index",
]
