"""A search: the query, the index, fusion of rankings, and the service that answers."""

__all__ = [
    "agreement",
    "bm25",
    "engines",
    "explain",
    "fusion",
    "index",
    "picture_ranks",
    "query",
    "query_kinds",
    "query_language",
    "reranking",
    "results",
    "service",
]
