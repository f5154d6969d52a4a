"""Recipes that made the shipped checkpoints in ``assets/``."""

__all__ = ["captioner_model", "command", "words"]
