"""Pictures with their records as a Hugging Face dataset on disk: Arrow shards, written and read."""

__all__ = ["image_ids", "reading", "records", "writing"]
