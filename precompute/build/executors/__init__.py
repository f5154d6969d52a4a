"""Where shards are made: in one process, by ranks, or on a cluster. What is made is the same."""

__all__ = ["local", "ranks", "ray_cluster"]
