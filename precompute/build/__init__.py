"""Building a gallery: decode, describe and write, shard by shard, then publish whole."""

__all__ = [
    "command",
    "index_command",
    "map_command",
    "pipeline",
    "plan",
    "sample_gallery",
    "workspace",
]
