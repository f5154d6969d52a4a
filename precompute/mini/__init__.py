"""Recipes that made the shipped checkpoints in ``assets/``."""

__all__ = ["captioner_command", "words_command"]
