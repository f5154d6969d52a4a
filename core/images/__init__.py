"""Hostile bytes to pixels: the only place that decodes a picture."""

__all__ = ["decode", "file_names", "sandbox", "thumbnails"]
