"""What becomes of a shard: its rows, their pictures, and the stages they go through."""

__all__ = ["pictures", "shard", "stages"]
