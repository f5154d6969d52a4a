"""CLIP: an encoder of images and of texts in one space, its two towers loaded apart."""

__all__ = ["encoder", "hubs", "patches", "towers"]
