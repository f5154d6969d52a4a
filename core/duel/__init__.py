"""Blind duels: votes on which of two unlabelled rankings is better, and what they add up to."""

__all__ = ["bradley_terry", "votes"]
