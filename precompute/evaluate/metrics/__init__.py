"""Metrics of retrieval and of captions: thin layers over the field's libraries."""

__all__ = ["caption_metrics", "retrieval_metrics"]
