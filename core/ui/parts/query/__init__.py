"""What a visitor asks with: the search box, a picture, filters, and the parts of a query."""

__all__ = ["picture_query", "query_chips", "search_box"]
