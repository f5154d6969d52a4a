"""Hostile bytes to pixels: the only place that decodes a picture."""
