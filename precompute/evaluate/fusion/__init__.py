"""Fusion of the lenses over many queries at once, and which of them answers."""

__all__ = ["fusion_choice", "fusions"]
