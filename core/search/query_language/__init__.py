"""What a query can say beyond plain words: parts that are added, weighed and subtracted."""

__all__ = ["compose", "filters", "foreign", "negation", "parse"]
