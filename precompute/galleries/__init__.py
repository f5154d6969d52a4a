"""Galleries that are there already: examined, and converted to the format of today."""

__all__ = ["convert", "doctor"]
