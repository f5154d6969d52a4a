"""Building a gallery: decode, describe and write, shard by shard, then publish whole."""
