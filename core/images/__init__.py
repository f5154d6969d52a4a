"""Hostile bytes to pixels: the only place that decodes a picture."""

__all__ = ["decode", "decoder_pool", "file_names", "thumbnails"]
