"""Queries of several parts, measured: words subtracted, a picture and a word together."""

__all__ = ["command"]
