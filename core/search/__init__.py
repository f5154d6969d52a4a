"""A search: the query, the index, fusion of rankings, and the service that answers."""

__all__ = [
    "agreement",
    "engines",
    "explain",
    "fusion",
    "index",
    "picture_text",
    "places",
    "query",
    "query_kinds",
    "query_language",
    "reranking",
    "service",
    "word_index",
    "word_lens",
]
