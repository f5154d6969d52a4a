"""Recipes that made the shipped checkpoints in ``assets/``."""

__all__ = ["captioner_command", "captioner_model", "words_command"]
