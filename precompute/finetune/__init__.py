"""What a user tunes: captioners and CLIP models."""

__all__ = ["captions", "clip", "shared"]
