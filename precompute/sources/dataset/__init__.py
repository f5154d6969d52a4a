"""Datasets opened by the library ``datasets``: their rows, and the pictures in a row."""

__all__ = ["open_dataset"]
