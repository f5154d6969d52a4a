"""Two-dimensional maps of a gallery, one a lens: laid out, kept in its folder, a query's place."""

__all__ = ["layout", "query_point", "stored"]
