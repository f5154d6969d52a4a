"""Recipes that made the shipped checkpoints in ``assets/``."""

__all__ = ["captioner_command", "captioner_model", "words", "words_command"]
