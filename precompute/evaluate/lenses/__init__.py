"""What each lens made of the queries, where the lenses differ, and lenses beyond both."""

__all__ = ["lens_differences", "lens_results", "reranked", "text_lens"]
