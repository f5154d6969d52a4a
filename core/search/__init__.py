"""A search: the query, the index, fusion of rankings, and the service that answers."""
